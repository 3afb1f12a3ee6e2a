"""Which prefill is the fastest, and which needs the least memory, when prompts are long? Measured here, or simulated.

    .venv/bin/python -m benchmarks.long_prompts measured [--tokens 1024 --tokens 4096 ...] [--ranks 2 --ranks 3]
        [--model qwen3-491m] [--rounds 3] [--json OUT.json]
    .venv/bin/python -m benchmarks.long_prompts simulated [--tokens 131072 ...] [--ranks 8 --ranks 16 ...]
        [--link 1gbe --link 100gbe --link nvlink] [--compute h100-sxm] [--json OUT.json]

Every prefill that there is takes part, each with a decode that takes the cache as it is left, so that no sync is in the
figures; where there is none, with a tensor decode, and what is seen of its sync. "single" is one rank. Measured: ranks
of one thread; each case is a launch of its own, since a process keeps its peak of memory, and the cases take turns,
A B C A B C. "beside" is that peak without program and weights: cache, activations and messages. Simulated: the shape of
Llama 3 8B, one rank a host, links between all of them.
"""

import json as jsons
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import click

from benchmarks import machine, random_model
from benchmarks.launches import result_of
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh, Place, parse_mesh

_SINGLE, _SINGLE_DECODE = "pipeline", "replicated"  # on one rank all are the same
_INSIDE = 8  # ranks of a stage, or more where there are not so many layers, if a prefill can split its layers too
_SHAPE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 1 << 21,
    "dtype": "bfloat16",
}


@dataclass(frozen=True)
class Case:
    """One prefill on so many ranks."""

    tokens: int
    ranks: int
    prefill: str
    decode: str

    @property
    def name(self) -> str:
        """For people."""
        return "single" if self.ranks == 1 else self.prefill


@dataclass(frozen=True)
class Measured:
    """Of one case: median seconds of all rounds; bytes of the rank that has, or sends, most of them."""

    case: Case
    seconds: float
    peak_bytes: int
    beside_bytes: int
    sent_bytes: int
    longest_chunk: int


@click.group()
def main() -> None:
    """Compare prefills of long prompts."""
    machine.tell()


@main.command()
@click.option("--tokens", type=click.IntRange(1), multiple=True, default=(1024, 4096, 16_384), show_default=True)
@click.option("--ranks", type=click.IntRange(2), multiple=True, default=(2, 3), show_default=True)
@click.option("--model", default="qwen3-491m", show_default=True, help="One of benchmarks/random_model, or any other.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of every case.")
@click.option(
    "--warmup", type=click.IntRange(0), default=1, show_default=True, help="Runs of a launch before it counts."
)
@click.option("--json", type=click.Path(dir_okay=False, writable=True), help="Write the rows to this file.")
def measured(
    tokens: Sequence[int], ranks: Sequence[int], model: str, rounds: int, warmup: int, json: str | None
) -> None:
    """Run all of them on this machine."""
    path = str(random_model.get(model)) if model in random_model.SHAPES else model
    rows = []
    for length in tokens:
        cases = cases_of(length, ranks)
        results: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
        for case in cases * rounds:
            results[case].append(_run(case, path, warmup))
        here = [_row(case, found) for case, found in results.items()]
        click.echo(f"\n{model}, {length} tokens, rounds {rounds}, one thread a rank\n\n{table(here)}")
        rows += here
    _write(json, {"model": model, "rounds": rounds, "rows": list(map(asdict, rows))})


def cases_of(tokens: int, ranks: Sequence[int]) -> list[Case]:
    """One rank, then every prefill on each count of them."""
    single = Case(tokens, 1, _SINGLE, _SINGLE_DECODE)
    return [
        single,
        *(Case(tokens, count, prefill, decode) for count in ranks for prefill, decode in _pairs(Mesh(pp=count))),
    ]


def _pairs(mesh: Mesh) -> list[tuple[str, str]]:
    """Every prefill that differs from the others on this mesh, with a decode that takes the cache as it is left.

    Or with a tensor decode, if none does.
    """
    from mpi_spp.forecast.sync import joints

    found: dict[tuple[Place, ...], tuple[str, str]] = {}
    for joint in sorted(joints(mesh), key=lambda one: (one.chosen != "none", one.decode != "tensor")):
        found.setdefault(_places(joint.prefill, mesh), (joint.prefill, joint.decode))
    return sorted(found.values())


def _places(prefill: str, mesh: Mesh) -> tuple[Place, ...]:
    place = registry.load("prefill", prefill).place
    return tuple(place(mesh, rank) for rank in range(mesh.replica_size))


def _run(case: Case, model: str, warmup: int) -> dict[str, Any]:
    """The result of one launch."""
    options = ["--model", model, "--dtype", "bfloat16", "--prefill", case.prefill, "--decode", case.decode]
    options += ["--prompt-tokens", str(case.tokens), "--warmup", str(warmup), "--repetitions", "1"]
    return result_of(["bench", "prefill", *options], case.ranks)


def _row(case: Case, results: Sequence[dict[str, Any]]) -> Measured:
    timings = [timing for result in results for timing in result["cases"][0]["timings"]]
    ranks = [rank for result in results for rank in result["machine"]["ranks"]]
    beside = [rank["peak_memory_bytes"] - rank["program_bytes"] - rank["weights_bytes"] for rank in ranks]
    found = results[0]["cases"][0]
    return Measured(
        case,
        statistics.median(timing["prefill_s"] + timing["sync_exposed_s"] for timing in timings),
        max(rank["peak_memory_bytes"] for rank in ranks),
        max(beside),
        max(found["bytes_sent"]),
        max(found["chunks"]),
    )


def table(rows: Sequence[Measured]) -> str:
    """Markdown, with the fastest of each count of ranks in bold; the first row is the single rank."""
    lines = ["| ranks | prefill | s | speed-up | peak MB | beside MB | of single | MB sent | longest chunk |"]
    lines.append("|--:|---" + "|--:" * 7 + "|")
    single = rows[0]
    for row in rows:
        fastest = min(other.seconds for other in rows if other.case.ranks == row.case.ranks)
        bold = "**" if row.seconds == fastest and row is not single else ""
        cells = [str(row.case.ranks), row.case.name, f"{bold}{row.seconds:.3f}{bold}"]
        cells += [f"{single.seconds / row.seconds:.2f}", f"{row.peak_bytes / 1e6:.0f}", f"{row.beside_bytes / 1e6:.0f}"]
        cells += [f"{row.beside_bytes / max(1, single.beside_bytes):.2f}", f"{row.sent_bytes / 1e6:.1f}"]
        lines.append(f"| {' | '.join([*cells, str(row.longest_chunk)])} |")
    return "\n".join(lines)


@main.command()
@click.option("--tokens", type=click.IntRange(1), multiple=True, default=(131_072, 1_048_576), show_default=True)
@click.option(
    "--ranks", type=click.IntRange(2), multiple=True, default=tuple(8 << i for i in range(8)), show_default=True
)
@click.option("--link", "links", multiple=True, default=("1gbe", "100gbe", "nvlink"), show_default=True)
@click.option("--compute", default="h100-sxm", show_default=True, help="The device of each rank.")
@click.option("--json", type=click.Path(dir_okay=False, writable=True), help="Write the rows to this file.")
def simulated(
    tokens: Sequence[int], ranks: Sequence[int], links: Sequence[str], compute: str, json: str | None
) -> None:
    """Predict all of them on other machines, as `mpi-spp simulate` does."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        _write_shape(Path(directory))
        for length in tokens:
            for link in links:
                here = _simulate(Path(directory), length, ranks, link, compute)
                single, *others = here
                head = f"Llama 3 8B, {length} tokens, {compute}, {link}, single {single['seconds']:.4g} s"
                click.echo(f"\n{head}\n\n{simulated_table(others)}")
                rows += here
    _write(json, {"shape": _SHAPE, "compute": compute, "rows": rows})


def _write_shape(directory: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(**_SHAPE).save_pretrained(directory)


def _simulate(directory: Path, tokens: int, ranks: Sequence[int], link: str, compute: str) -> list[dict[str, Any]]:
    """Seconds of the prefill on one rank, then of every arrangement on each count of ranks."""
    fixed = ["--model", str(directory), "--ranks-per-host", "1", "--prompt-tokens", str(tokens), "--new-tokens", "1"]
    fixed += ["--link", link, "--inside-link", link, "--compute", compute, "--kernels", "plain"]
    rows = [_predicted(fixed, _SINGLE, _SINGLE_DECODE, 1, "pp=1")]
    for count in ranks:
        for prefill, decode, mesh in _arrangements(count):
            rows.append(_predicted(fixed, prefill, decode, count, mesh))
    return [{"tokens": tokens, "link": link, **row} for row in rows]


def _arrangements(count: int) -> list[tuple[str, str, str]]:
    """Prefill, decode and mesh: all ranks as one, and groups of a few ranks each where the prefill looks at groups."""
    flat = Mesh(pp=count)
    found = [(prefill, decode, str(flat)) for prefill, decode in _pairs(flat)]
    groups = min(count // _INSIDE, _SHAPE["num_hidden_layers"])
    if groups > 1:
        inside = Mesh(pp=groups, tp=count // groups)
        for prefill, decode in _pairs(inside):
            place = _places(prefill, inside)[0]
            if place.num_stages > 1 or 1 < place.num_shards < place.stage_size:
                found.append((prefill, decode, str(inside)))
    return found


def _predicted(fixed: Sequence[str], prefill: str, decode: str, ranks: int, mesh: str) -> dict[str, Any]:
    """A row of `mpi-spp simulate`; seconds None where it refuses: a pipeline has no more stages than layers."""
    from mpi_spp.cli.simulate import command
    from mpi_spp.errors import UserError

    named = {"prefill": prefill, "decode": decode, "ranks": ranks, "mesh": mesh}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "out.json"
        options = [word for name, value in named.items() for word in (f"--{name}", str(value))]
        try:
            with redirect_stdout(StringIO()):
                command.main([*fixed, *options, "--json", str(path)], standalone_mode=False)
        except UserError as error:
            return named | {"seconds": None, "refused": str(error)}
        row = jsons.loads(path.read_text())["rows"][0]
    return named | {
        "seconds": row["seconds"]["prefill"] + row["seconds"]["sync"],
        "longest_chunk": row["longest_chunk"],
    }


def simulated_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: seconds by ranks and arrangement, with the fastest of each count in bold."""
    names = list(dict.fromkeys(_arrangement(row) for row in rows))
    lines = [f"| ranks | {' | '.join(names)} |", "|--:" * (len(names) + 1) + "|"]
    for ranks in dict.fromkeys(row["ranks"] for row in rows):
        seconds = {_arrangement(row): row["seconds"] for row in rows if row["ranks"] == ranks}
        best = min((value for value in seconds.values() if value is not None), default=None)
        cells = [_cell(seconds.get(name), best) for name in names]
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _arrangement(row: dict[str, Any]) -> str:
    mesh = parse_mesh(row["mesh"])
    in_stages = mesh.tp > 1 and _places(row["prefill"], mesh)[0].num_stages > 1
    return f"{row['prefill']}, in stages" if in_stages else row["prefill"]


def _cell(seconds: float | None, best: float | None) -> str:
    if seconds is None:
        return "-"
    return f"**{seconds:.4g}**" if seconds == best else f"{seconds:.4g}"


def _write(path: str | None, data: dict[str, Any]) -> None:
    if path is not None:
        told = {"benchmark": "long prompts", **data, "measured_at": time.strftime("%Y-%m-%d %H:%M:%S")}
        Path(path).write_text(jsons.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
