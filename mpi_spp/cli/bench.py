"""`mpi-spp bench`: measure requests, their phases or communication on the ranks at hand, and compare two results."""

import itertools
import sys
from dataclasses import replace
from typing import Any

import click

from mpi_spp.cli._bench_comm import comm
from mpi_spp.cli._options import (
    FILE,
    TOKENS,
    Decorator,
    Number,
    json_option,
    model_options,
    schedule_options,
    together,
    trace_options,
)
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.cli._trace import traced
from mpi_spp.config import RunConfig, default_of
from mpi_spp.errors import UserError
from mpi_spp.instruments.report.experts import load_line
from mpi_spp.request import MOST_TOKENS
from mpi_spp.system.files import read_json_object
from mpi_spp.system.units import counted

# What all cases of a result have in common.
_MOST_SAMPLES = _MOST_ROUNDS = 10_000  # that are compared in seconds
_BEYOND_USE = 1e100  # of a rate
_LENGTHS = ("prompt_tokens", "new_tokens")
_SHARE = Number(0, 1, max_open=True)
_FIXED = ("mesh", "dtype", "kv_cache_dtype", "quantize", "quantize_group_size", "activations", "kernels", "threads")


@click.group("bench")
def command() -> None:
    """Measure prefill, decode, whole requests or communication, and compare results."""


command.add_command(comm)


def _measuring(new_tokens: int, least_tokens: int = 1) -> Decorator:
    """The options of every measurement. A repeated option makes one case of each of its values."""
    lengths = click.IntRange(least_tokens, MOST_TOKENS)
    warmup, rounds = click.IntRange(0, _MOST_ROUNDS), click.IntRange(1, _MOST_ROUNDS)
    return together(
        model_options,
        schedule_options(multiple=True),
        trace_options,
        click.option("--prompt-tokens", default=1024, show_default=True, type=TOKENS, help="Length of the prompt."),
        click.option("--new-tokens", default=new_tokens, show_default=True, type=lengths, help="Length of the answer."),
        click.option("--warmup", default=1, show_default=True, type=warmup, help="Rounds that do not count."),
        click.option("--repetitions", default=5, show_default=True, type=rounds, help="Rounds that count."),
        json_option("Write all samples and what they were measured on to this file;"),
    )


@command.command()
@_measuring(new_tokens=1)
def prefill(**options: Any) -> None:
    """Prompt tokens per second, the KV sync included."""
    _run("prefill", **options)


@command.command()
@_measuring(new_tokens=65, least_tokens=2)
def decode(**options: Any) -> None:
    """New tokens per second after the first one."""
    _run("decode", **options)


@command.command()
@_measuring(new_tokens=128)
def e2e(**options: Any) -> None:
    """New tokens per second over prefill, sync and decode."""
    _run("e2e", **options)


@command.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option(
    "--tolerance", default=0.02, show_default=True, type=_SHARE, help="A smaller change than this does not count."
)
@json_option("Write the ratios to this file;")
def compare(before: str, after: str, tolerance: float, json: str | None) -> None:
    """Ratios of two results of the same benchmark; status 1 when AFTER is slower beyond the noise."""
    from mpi_spp.instruments.report.samples import compare as compare_results

    check_outputs(json, {"BEFORE": before, "AFTER": after})
    earlier, later = _read(before), _read(after)
    for what, one, other in zip(("benchmark", *_LENGTHS), _measured(earlier), _measured(later), strict=True):
        if one != other:
            raise UserError(f"{after}: {what} is {other}, but {one} in {before}; compare results of the same benchmark")
    rows = compare_results(earlier, later, tolerance)
    if not rows:
        raise UserError(f"{after}: has no case in common with {before}; compare results of the same benchmark")
    for row in rows if json != "-" else ():
        click.echo(f"{row['verdict']:6}  {row['ratio']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]  {row['name']}")
    write_json(json, {"before": before, "after": after, "tolerance": tolerance, "cases": rows})
    sys.exit(1 if any(row["verdict"] == "slower" for row in rows) else 0)


def _run(kind: str, json: str | None, **options: Any) -> None:
    workload_options = {name: options.pop(name) for name in ("prompt_tokens", "new_tokens", "warmup", "repetitions")}
    expected = {"max_new_tokens": workload_options["new_tokens"]}  # by which "auto" chooses
    configs = _cases(options | expected | {"json": json})

    from mpi_spp.cli._start import show_choice
    from mpi_spp.entrypoints.opening import join, open_engine
    from mpi_spp.instruments.benchmark import Workload, machine, measure
    from mpi_spp.parallel.mesh import mesh_of, require_one_replica
    from mpi_spp.system.timings import Clock

    first = next(iter(configs.values()))
    world, clock = join(first), Clock()
    require_one_replica(mesh_of(options["mesh"], world.size))
    workload = Workload(**workload_options)
    with traced(first, world):
        engine = open_engine(first, world, clock, workload.prompt_tokens)
        show_choice(engine)
        result = {
            "benchmark": kind,
            "model": options["model"],
            "workload": workload_options,
            "configuration": {name: options[name] for name in _FIXED},
            "cases": measure(engine, configs, workload, kind),
            "machine": machine(engine),
        }

    def report() -> None:
        if json != "-":
            _print_cases(result)
        write_json(json, result)

    world.on_rank_0(report)


def _cases(options: dict[str, Any]) -> dict[str, RunConfig]:
    """A configuration for every combination of the repeated options, by its name."""
    names = ("prefill", "decode", "sync_strategy", "sync_granularity", "chunk_size", "layer_split", "context_split")
    values = [options.pop(name) for name in names]
    base = RunConfig(**options)
    chosen = [value or (getattr(base, name),) for name, value in zip(names, values, strict=True)]
    return {
        _case_name(*case): replace(base, **dict(zip(names, case, strict=True))) for case in itertools.product(*chosen)
    }


def _case_name(
    prefill: str,
    decode: str,
    strategy: str,
    granularity: str,
    chunk: int | str,
    layers: tuple[int, ...] | str,
    context_split: str,
) -> str:
    split = layers if isinstance(layers, str) else ",".join(map(str, layers))
    of_positions = "" if context_split == default_of("context_split") else f" {context_split}"
    return f"{prefill}{of_positions} {strategy} {granularity} {decode} chunk={chunk} layers={split}"


def _print_cases(result: dict[str, Any]) -> None:
    from mpi_spp.instruments.report.summary import processor_lines

    ranks = result["machine"]["ranks"]
    threads = ",".join(str(rank["threads"]) for rank in ranks)
    lengths = ", ".join(f"{name} {value}" for name, value in result["workload"].items())
    click.echo(f"{result['benchmark']}: {result['model']}, {counted(len(ranks), 'rank')}, threads {threads}, {lengths}")
    for line in processor_lines(ranks):
        click.echo(line)
    for case in result["cases"]:
        click.echo(
            f"{case['median']:10.1f} {case['unit']}  [{case['min']:.1f}, {case['max']:.1f}]"
            f"  exposed sync {case['sync_exposed_share']:.2%} of prefill  {case['name']}"
        )
        if case["experts"] is not None:
            click.echo(f"{'':10} {load_line(case['experts'])}")


def _read(path: str) -> dict[str, Any]:
    result: dict[str, Any] = read_json_object(path, path)
    cases = result.get("cases")
    if isinstance(cases, list) and all(isinstance(case, dict) and _is_measured(case) for case in cases):
        return result
    raise UserError(f"{path}: is no result of `mpi-spp bench ... --json`")


def _measured(result: dict[str, Any]) -> list[Any]:
    """What two results must have in common, so that their ratio says anything."""
    workload = result.get("workload")
    lengths = workload if isinstance(workload, dict) else {}
    return [result.get("benchmark"), *(lengths.get(name) for name in _LENGTHS)]


def _is_measured(case: dict[str, Any]) -> bool:
    """Whether it has what `compare` looks at."""
    samples = case.get("samples")
    if not isinstance(case.get("name"), str) or not isinstance(samples, list) or not 0 < len(samples) <= _MOST_SAMPLES:
        return False
    return all(isinstance(one, int | float) and 0 < one < _BEYOND_USE for one in [case.get("median"), *samples])
