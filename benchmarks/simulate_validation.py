"""How near do forecasts come to measured times? Predicts configurations that no fit has seen, and measures them.

    .venv/bin/python -m benchmarks.simulate_validation [--only TEXT] [--json out.json]

Each group is one launch of `mpi-spp bench e2e`, in which the configurations take turns. With `--max-memory` it measures
costs first where the cache folder has none (`--fresh` forgets them): of chunks of 16 to 512 tokens after none and 2,048
others, and of single tokens there, on a few layers. Then the same forecast as that of `mpi-spp simulate` is made from
what is remembered, for other lengths and whole models. The aim: within 15%.
"""

import itertools
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.launches import result_of

_SMALL, _LARGE = "smollm2-135m-instruct", "qwen3-491m"
_FILES = ("costs.json", "decode.json", "links.json")
_PHASES = ("prefill", "decode")


class Disturbed(Exception):
    """What was measured was not fit to be kept."""


@dataclass(frozen=True)
class Group:
    """Configurations of one launch: every prefill with every decode and chunk size."""

    model: str
    ranks: int
    prompt_tokens: int
    prefills: tuple[str, ...]
    decodes: tuple[str, ...]
    chunk_sizes: tuple[str, ...] = ("auto",)
    new_tokens: int = 25
    repetitions: int = 3

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} {self.ranks} ranks {self.prompt_tokens} tokens"


_ALL = ("replicated", "tensor", "pipeline")
GROUPS = (
    Group(_SMALL, 1, 200, ("pipeline",), ("replicated",), ("auto", "64")),
    Group(_SMALL, 1, 1500, ("pipeline",), ("replicated",)),
    Group(_SMALL, 2, 700, ("pipeline", "tensor"), _ALL),
    Group(_SMALL, 2, 1500, ("pipeline",), ("tensor",), ("auto", "64", "200")),
    Group(_SMALL, 3, 400, ("pipeline", "tensor"), _ALL),
    Group(_LARGE, 1, 300, ("pipeline",), ("replicated",), repetitions=2),
    Group(_LARGE, 2, 600, ("pipeline", "tensor"), _ALL, repetitions=2),
    Group(_LARGE, 3, 300, ("pipeline",), _ALL, repetitions=2),
)


@click.command()
@click.option("--only", default="", help="Groups whose name has this text.")
@click.option("--fresh", is_flag=True, help="Forget what was measured before.")
@click.option("--json", "path", type=click.Path(), help="Write the rows to this file.")
def main(only: str, fresh: bool, path: str | None) -> None:
    """Print predicted and measured seconds of each phase, and the error to the median of the rounds."""
    machine.tell()
    from mpi_spp.model.loading.hub import cache_directory

    if fresh:
        for name in _FILES:
            (cache_directory() / "kernels" / name).unlink(missing_ok=True)
    start, rows = time.perf_counter(), []
    for group in (group for group in GROUPS if only in group.name):
        try:
            found = _rows(group)
        except Disturbed as error:
            click.echo(f"{group.name}: {error}")
            continue
        rows += found
        for row in found:
            _show(row)
    if not rows:
        raise click.ClickException("no group could be predicted")
    for phase in _PHASES:
        errors = [abs(row[phase]["error"]) for row in rows]
        within = sum(error <= 0.15 for error in errors)
        click.echo(
            f"{phase}: median error {statistics.median(errors):.1%}, worst {max(errors):.1%},"
            f" within 15%: {within} of {len(errors)}"
        )
    click.echo(f"{time.perf_counter() - start:.0f} s")
    if path is not None:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def _rows(group: Group) -> list[dict[str, Any]]:
    """Measured, then predicted."""
    measured = _measure(group)
    found = []
    for prefill, decode, chunk in itertools.product(group.prefills, group.decodes, group.chunk_sizes):
        case = next(one for one in measured if one["name"].startswith(f"{prefill} auto chunk {decode} chunk={chunk} "))
        timings = case["timings"]
        times = _predict(group, prefill, decode, chunk)
        seconds = {
            "prefill": [one["prefill_s"] + one["sync_exposed_s"] for one in timings],
            "decode": [one["decode_s"] / (group.new_tokens - 1) for one in timings],
        }
        predicted = {"prefill": times.prefill + times.sync, "decode": times.token}
        row: dict[str, Any] = {
            "group": group.name,
            "prefill_strategy": prefill,
            "decode_strategy": decode,
            "chunk": chunk,
        }
        for phase in _PHASES:
            value = statistics.median(seconds[phase])
            error = predicted[phase] / value - 1
            row[phase] = {"predicted_s": predicted[phase], "measured_s": seconds[phase], "error": error}
        found.append(row)
    return found


def _measure(group: Group) -> list[dict[str, Any]]:
    """The cases of one launch, each rank with one thread."""
    bench = ["bench", "e2e", "--model", _where(group.model), "--prompt-tokens", str(group.prompt_tokens)]
    counts = {"new-tokens": group.new_tokens, "repetitions": group.repetitions, "warmup": 1}
    bench += [f"--{name}={value}" for name, value in counts.items()]
    bench += [f"--prefill={name}" for name in group.prefills] + [f"--decode={name}" for name in group.decodes]
    bench += [f"--chunk-size={size}" for size in group.chunk_sizes] + ["--max-memory=1TiB"]
    cases: list[dict[str, Any]] = result_of(bench, group.ranks)["cases"]
    return cases


def _predict(group: Group, prefill: str, decode: str, chunk: str) -> Any:
    """From what is remembered alone."""
    from mpi_spp.cli._scenario import read_known
    from mpi_spp.config import RunConfig
    from mpi_spp.forecast.forecast import forecast
    from mpi_spp.parallel.mesh import mesh_of

    size = chunk if chunk == "auto" else int(chunk)
    config = RunConfig(model=_where(group.model), prefill=prefill, decode=decode, chunk_size=size, threads=1)  # type: ignore[arg-type]
    lengths = {"prompt_tokens": group.prompt_tokens, "new_tokens": group.new_tokens}
    scenario = read_known(config, group.ranks).scenario(
        mesh_of(None, group.ranks), [os.uname().nodename] * group.ranks, lengths
    )
    assumed = [name for name, origin in scenario.speeds.origins.items() if "assumed" in origin]
    if assumed:
        raise Disturbed(f"nothing was kept of {', '.join(assumed)}: other programs run on this machine")
    return forecast(scenario).times


def _where(model: str) -> str:
    """In the store, or built by benchmarks/random_model.py."""
    from benchmarks.random_model import SHAPES, get

    return str(get(model)) if model in SHAPES else model


def _show(row: dict[str, Any]) -> None:
    told = []
    for phase, factor, unit in (("prefill", 1, "s"), ("decode", 1e3, "ms")):
        of_phase = row[phase]
        measured = statistics.median(of_phase["measured_s"]) * factor
        best = min(of_phase["measured_s"]) * factor
        predicted, error = of_phase["predicted_s"] * factor, of_phase["error"]
        told.append(f"{phase} {predicted:7.3f}, measured {measured:7.3f} ({best:7.3f} at best) {unit} {error:+6.1%}")
    what = f"{row['prefill_strategy']} {row['decode_strategy']} chunk {row['chunk']}"
    click.echo(f"{row['group']:42} {what:30} {'   '.join(told)}")


if __name__ == "__main__":
    main()
