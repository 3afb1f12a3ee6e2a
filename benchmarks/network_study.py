"""What does a slow network cost the prefill? Strategies and granularities of the KV sync at several speeds of link.

    sudo .venv/bin/python -m benchmarks.network_study [--hosts 2 --hosts 3] [--mbit 100 --mbit 1000 --mbit 10000]
        [--prompt-tokens 1024] [--chunk-size 128] [--rounds 3] [--repetitions 3] [--json OUT.json] [--plot OUT.png]

Makes hosts on this machine (benchmarks/hosts), of one rank with one thread each, and prints a table for each count of
them. The links take turns, A B C A B C, as the cases of a launch do. No run can be faster than without a limit, nor
than its bytes pass the busiest link: the larger of both is the bound, and `near` is the bound over the time taken.
Needs root, and a core for each host to be worth reading.
"""

import itertools
import json as jsons
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import machine
from benchmarks.hosts.network import Network, network
from mpi_spp.errors import UserError
from mpi_spp.instruments.report.plots import require_plots

_GRANULARITIES = ("layer", "chunk", "prefill")
_DECODES = {"replicated": ("pairwise", "ring"), "tensor": ("reshard",)}  # with the syncs that lead to them
_ON_THE_WIRE = 1514 / 1448  # bytes of full Ethernet frames over those of messages, as the links count them
_SECONDS = 1800


@dataclass(frozen=True)
class Row:
    """One case on one kind of link. Medians, in seconds; bytes are those that the busiest host sends."""

    hosts: int
    mbit: float | None
    strategy: str
    granularity: str
    prefill_s: float
    exposed_s: float
    kv_bytes: int
    all_bytes: int

    @property
    def total_s(self) -> float:
        """Until every host has what its decode needs."""
        return self.prefill_s + self.exposed_s

    def least_s(self, free: "Row") -> float:
        """The bound. `free`: the same case without a limit. What waits for the end of the prefill comes after it."""
        if self.mbit is None:
            return free.total_s
        per_byte = 8 * _ON_THE_WIRE / (self.mbit * 1e6)
        if self.granularity == "prefill":
            hidden = (self.all_bytes - self.kv_bytes) * per_byte
            return max(free.total_s, max(free.prefill_s, hidden) + self.kv_bytes * per_byte)
        return max(free.total_s, self.all_bytes * per_byte)


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--hosts", "counts", type=click.IntRange(2, 250), multiple=True, default=(2, 3), show_default=True)
@click.option("--mbit", "rates", type=float, multiple=True, default=(100, 1000, 10000), show_default=True)
@click.option("--prompt-tokens", default=1024, show_default=True)
@click.option("--chunk-size", default="128", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Turns of every link.")
@click.option("--repetitions", default=3, show_default=True, help="Turns of every case in one launch.")
@click.option("--json", type=click.Path(dir_okay=False, writable=True), help="Write all samples to this file.")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Draw the times into this file.")
def main(
    model: str,
    counts: Sequence[int],
    rates: Sequence[float],
    rounds: int,
    json: str | None,
    plot: str | None,
    **lengths: Any,
) -> None:
    """Print a table for every count of hosts; each has one rank of one thread."""
    machine.tell()
    try:
        if plot is not None:
            require_plots(plot, "--plot")
        rows, results = _study(model, counts, rates, rounds, lengths)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    if json is not None:
        told = {"benchmark": "network", "rows": list(map(asdict, rows)), "results": results}
        told["measured_at"] = time.strftime("%Y-%m-%d %H:%M:%S")
        Path(json).write_text(jsons.dumps(told, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(rows, plot)


def _study(
    model: str, counts: Sequence[int], rates: Sequence[float], rounds: int, lengths: dict[str, Any]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Measure and print; all rows, and the results that they are from."""
    rows: list[Row] = []
    results: list[dict[str, Any]] = []
    for count in counts:
        links: dict[float | None, list[dict[str, Any]]] = {mbit: [] for mbit in (None, *rates)}
        with network(count) as made:
            for mbit in [*links] * rounds:
                made.shape(None if mbit is None else mbit * 1e6)
                links[mbit] += [_measure(made, model, decode, lengths) for decode in _DECODES]
        here = [row for mbit, measured in links.items() for row in rows_of(count, mbit, measured)]
        click.echo(f"\n{model}, {_named(lengths)}, rounds {rounds}, {count} hosts\n\n{table(here)}")
        rows += here
        results += [{"hosts": count, "mbit": mbit, **one} for mbit, measured in links.items() for one in measured]
    return rows, results


def rows_of(hosts: int, mbit: float | None, results: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """The cases of results of `bench prefill`, each with its samples from all of them."""
    cases = [case for result in results for case in result["cases"]]
    for name in dict.fromkeys(case["name"] for case in cases):
        alike = [case for case in cases if case["name"] == name]
        timings = [timing for case in alike for timing in case["timings"]]
        _, strategy, granularity, *_ = name.split()
        seconds = [median(timing[phase] for timing in timings) for phase in ("prefill_s", "sync_exposed_s")]
        busiest = max(range(hosts), key=alike[0]["bytes_sent"].__getitem__)
        sent = (alike[0]["kv_bytes_sent"][busiest], alike[0]["bytes_sent"][busiest])
        yield Row(hosts, mbit, strategy, granularity, *seconds, *sent)


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the fastest of each speed of link in bold."""
    head = "| link | sync | granularity | prefill s | exposed s | of prefill | total s | MB of KV | bound s | near |"
    lines = [head, "|---|---|---" + "|--:" * 7 + "|"]
    for row in rows:
        bold = "**" if row.total_s == min(other.total_s for other in rows if other.mbit == row.mbit) else ""
        least = row.least_s(_free(row, rows))
        cells = [_link(row.mbit), row.strategy, row.granularity, f"{row.prefill_s:.3f}", f"{row.exposed_s:.3f}"]
        cells += [f"{row.exposed_s / row.prefill_s:.1%}", f"{bold}{row.total_s:.3f}{bold}", f"{row.kv_bytes / 1e6:.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{least:.3f}', f'{least / row.total_s:.0%}'])} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: str) -> None:
    """Seconds over the speed of the link, a panel for each count of hosts; broken lines are bounds."""
    from matplotlib.figure import Figure

    counts = sorted({row.hosts for row in rows})
    figure = Figure(figsize=(6 * len(counts), 5))
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)
    for panel, count in zip(panels[0], counts, strict=True):
        here = sorted((row for row in rows if row.hosts == count), key=_speed)
        for number, case in enumerate(dict.fromkeys((row.strategy, row.granularity) for row in here)):
            line = [row for row in here if (row.strategy, row.granularity) == case]
            links, color = [_link(row.mbit) for row in line], f"C{number}"
            panel.plot(links, [row.total_s for row in line], "o-", color=color, label=" ".join(case))
            panel.plot(links, [row.least_s(_free(row, here)) for row in line], ":", color=color)
        panel.set(title=f"{count} hosts", xlabel="link", ylabel="prefill and sync, s")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize="small")
    figure.savefig(path, bbox_inches="tight", dpi=150)


def _measure(made: Network, model: str, decode: str, lengths: dict[str, Any]) -> dict[str, Any]:
    """The result of one launch, whose cases take turns."""
    path = made.hostfile.with_name("result.json")
    repeated = [("--sync-strategy", name) for name in _DECODES[decode]]
    repeated += [("--sync-granularity", name) for name in _GRANULARITIES]
    chosen = ["--model", model, "--dtype", "bfloat16", "--decode", decode]
    numbers = [word for name, value in lengths.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    launch = [sys.executable, "-m", "mpi_spp", "launch", "--hostfile", str(made.hostfile), "--threads", "1", "--"]
    bench = [*launch, "bench", "prefill", *chosen, *itertools.chain(*repeated), *numbers, "--json", str(path)]
    subprocess.run(made.hosts[0].line(*bench), check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)
    return jsons.loads(path.read_text())


def _free(row: Row, rows: Sequence[Row]) -> Row:
    """The same case without a limit."""
    case = (row.hosts, None, row.strategy, row.granularity)
    return next(other for other in rows if (other.hosts, other.mbit, other.strategy, other.granularity) == case)


def _speed(row: Row) -> float:
    return float("inf") if row.mbit is None else row.mbit


def _link(mbit: float | None) -> str:
    if mbit is None:
        return "no limit"
    return f"{mbit / 1000:g} Gbit/s" if mbit >= 1000 else f"{mbit:g} Mbit/s"


def _named(lengths: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in lengths.items())


if __name__ == "__main__":
    main()
