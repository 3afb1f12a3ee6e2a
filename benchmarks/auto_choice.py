"""What does `--prefill auto --decode auto` lose against the best of all strategies? Over a grid of requests, in turn.

    mpirun -np 2 --bind-to core .venv/bin/python -m mpi4py -m benchmarks.auto_choice [--model M ...] [--json out.json]

A row for each model, prompt and answer: every pair of strategies and "auto" run the same request in one process, a few
rounds in turn; the median counts. Costs are those that the cache folder remembers, or measured at the start.
"""

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import click

from benchmarks import machine

MODELS = ("smollm2-135m-instruct", "qwen3-491m")
_AUTO = "auto auto"


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS, show_default=True)
@click.option("--prompt-tokens", multiple=True, type=int, default=(64, 512, 2048), show_default=True)
@click.option("--new-tokens", multiple=True, type=int, default=(8, 128), show_default=True)
@click.option("--repetitions", default=2, show_default=True, help="Rounds that count.")
@click.option("--warmup", default=0, show_default=True, help="Rounds that do not.")
@click.option("--threads", default=1, show_default=True, help="Of each rank.")
@click.option("--json", "path", type=click.Path(), help="Write the rows to this file.")
def main(
    models: tuple[str, ...],
    prompt_tokens: tuple[int, ...],
    new_tokens: tuple[int, ...],
    repetitions: int,
    warmup: int,
    threads: int,
    path: str | None,
) -> None:
    """Print seconds of a request with each pair of strategies, and the loss of auto."""
    machine.tell()
    from mpi_spp.comm.world import the_world
    from mpi_spp.instruments.benchmark import Workload

    world, rows = the_world(), []
    for model, prompt, answer in itertools.product(models, prompt_tokens, new_tokens):
        rows.append(_row(model, Workload(prompt, answer, warmup, repetitions), threads))
        if world.rank == 0:
            _show(rows[-1])
    if world.rank == 0:
        for name in ("loss", "loss_of_choice"):
            losses = [row[name] for row in rows]
            click.echo(f"{name}: median {statistics.median(losses):.1%}, worst {max(losses):.1%} of {len(rows)}")
        if path is not None:
            Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def _row(model: str, workload: Any, threads: int) -> dict[str, Any]:
    """Of one request. Collective."""
    from mpi_spp.cli._start import open_engine
    from mpi_spp.comm.world import the_world
    from mpi_spp.config import RunConfig
    from mpi_spp.instruments.benchmark import measure
    from mpi_spp.parallel import registry
    from mpi_spp.system.timings import Clock

    def config(prefill: str, decode: str) -> RunConfig:
        return RunConfig(
            model=_where(model), prefill=prefill, decode=decode, threads=threads, max_new_tokens=workload.new_tokens
        )

    pairs = itertools.product(registry.choices("prefill"), registry.choices("decode"))
    configs = {_AUTO: config("auto", "auto")} | {f"{one} {two}": config(one, two) for one, two in pairs}
    engine = open_engine(configs[_AUTO], the_world(), Clock(), workload.prompt_tokens)
    choice = engine.choice
    assert choice is not None
    cases = measure(engine, configs, workload, "e2e")
    seconds = {case["name"]: workload.new_tokens / case["median"] for case in cases}
    best = min((name for name in seconds if name != _AUTO), key=seconds.__getitem__)
    chosen = f"{choice['prefill']} {choice['decode']}"
    return {
        "model": model,
        "prompt_tokens": workload.prompt_tokens,
        "new_tokens": workload.new_tokens,
        "ranks": the_world().size,
        "seconds": seconds,
        "predicted_s": {_pair(name): value for name, value in choice["predicted_s"].items()},
        "best": best,
        "chosen": chosen,
        "loss": seconds[_AUTO] / seconds[best] - 1,  # runs what it chose: with noise of its own
        "loss_of_choice": seconds[chosen] / seconds[best] - 1,
        "samples": {case["name"]: case["samples"] for case in cases},
    }


def _where(model: str) -> str:
    """In the store, or built by benchmarks/random_model.py."""
    from benchmarks.random_model import SHAPES, directory_of

    return str(directory_of(model)) if model in SHAPES else model


def _pair(name: str) -> str:
    """`--prefill pipeline --decode tensor` as `pipeline tensor`."""
    words = name.split()
    return f"{words[1]} {words[3]}"


def _show(row: dict[str, Any]) -> None:
    request = f"{row['model']}, {row['prompt_tokens']} + {row['new_tokens']} tokens, {row['ranks']} ranks"
    losses = f"loss {row['loss']:.1%}, of the choice itself {row['loss_of_choice']:.1%}"
    click.echo(f"{request}: took {row['chosen']}, best {row['best']}, {losses}")
    for name, seconds in sorted(row["seconds"].items(), key=lambda item: item[1]):
        told = row["predicted_s"].get(name)
        error = "" if told is None else f"  predicted {told:7.3f} ({told / seconds - 1:+.1%})"
        click.echo(f"  {name:22} {seconds:7.3f} s{error}")


if __name__ == "__main__":
    main()
