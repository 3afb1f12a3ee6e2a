"""Measured communication: cases that can be compared, ratios of the transports, fitted lines, tables."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.instruments.report.hockney import fit
from mpi_spp.instruments.report.samples import describe
from mpi_spp.instruments.report.tables import table, tables_of
from mpi_spp.system.units import counted

OURS, BARE = "wrapper", "raw"  # the transports whose difference is what our wrapper costs

Row = Mapping[str, Any]
_SERIES = ("operation", "mode", "transport")


def case_of(point: Row) -> dict[str, Any]:
    """A measured point as a case of a benchmark result; its samples are bytes per second that a rank receives."""
    samples = point["samples"]
    of = {name: point[name] for name in (*_SERIES, "message_bytes", "moved_bytes", "iterations")}
    seconds = [sample["mean_s"] for sample in samples]
    overlaps = [sample["overlap"] for sample in samples if sample["overlap"] is not None]
    return {
        "name": f"{point['operation']} {point['mode']} {point['transport']} {_size(point['message_bytes'])}",
        **of,
        "unit": "bytes/s",
        **describe([point["moved_bytes"] / one for one in seconds]),
        "seconds": statistics.median(seconds),
        "round_seconds": seconds,
        "fastest_rank_s": statistics.median(sample["min_s"] for sample in samples),
        "slowest_rank_s": statistics.median(sample["max_s"] for sample in samples),
        "overlap": statistics.median(overlaps) if overlaps else None,
    }


def comparisons(cases: Sequence[Row]) -> list[dict[str, Any]]:
    """For every exchange that our wrapper carried out: how many times as fast as each other transport it was.

    Medians over the rounds, of the ratio within a round: what slows the machine down hits neighbours alike.
    """
    rows = []
    for (operation, mode, size), group in _by(cases, "operation", "mode", "message_bytes"):
        seconds = {case["transport"]: case["round_seconds"] for case in group}
        ours = seconds.pop(OURS, None)
        if ours is not None:
            row = {"operation": operation, "mode": mode, "message_bytes": size}
            row["speed"] = {
                name: _median(b / a for a, b in zip(ours, theirs, strict=True)) for name, theirs in seconds.items()
            }
            bare = seconds.get(BARE)
            row["overhead_s"] = bare and _median(a - b for a, b in zip(ours, bare, strict=True))
            rows.append(row)
    return rows


def fits(cases: Sequence[Row]) -> list[dict[str, Any]]:
    """alpha and beta of every operation, mode and transport that was measured at two sizes or more."""
    rows = []
    for series, group in _by(cases, *_SERIES):
        line = fit([case["moved_bytes"] for case in group], [case["seconds"] for case in group])
        if line is not None:
            found = {"alpha_s": line.alpha_s, "bytes_per_s": line.bytes_per_s, "deviation": line.deviation}
            rows.append(dict(zip(_SERIES, series, strict=True)) | found)
    return rows


def gaps(left_out: Sequence[Row]) -> list[str]:
    """One line for every reason why something was not measured."""
    lines = []
    for (transport, mode, reason), group in _by(left_out, "transport", "mode", "reason"):
        operations = dict.fromkeys(row["operation"] for row in group if row["operation"])
        sizes = dict.fromkeys(_size(row["message_bytes"]) for row in group if row["message_bytes"])
        what = " ".join(part for part in (mode, ", ".join(operations), ", ".join(sizes)) if part)
        lines.append(f"left out: {transport}{' ' * bool(what)}{what}: {reason}")
    return lines


def print_comm(result: Row, console: Console) -> None:
    """A table for every operation and mode, one of the fitted lines, and what was left out."""
    ratios = {(row["operation"], row["mode"], row["message_bytes"]): row for row in result["comparisons"]}
    for (operation, mode), group in _by(result["cases"], "operation", "mode"):
        title = f"{operation}, {mode}, {counted(result['num_ranks'], 'rank')}"
        for made in _exchanges(title, group, ratios, console.width):
            console.print(made)
    if result["fits"]:
        console.print(_lines(result["fits"]))
    for line in gaps(result["left_out"]):
        console.print(line, highlight=False, soft_wrap=True)


def _exchanges(
    title: str, cases: Sequence[Row], ratios: Mapping[tuple[str, str, int], Row], width: int
) -> Iterator[Table]:
    """Times of all transports side by side."""
    names = list(dict.fromkeys(case["transport"] for case in cases))
    hides = any(case["overlap"] is not None for case in cases)
    others = [name for name in names if name != OURS] if OURS in names else []
    columns = ["message", *(f"{name}\nus" for name in names), *(f"{name}\nhidden" for name in names if hides)]
    columns += [f"{OURS}\n- {BARE} us"] * (BARE in others) + [f"x {name}" for name in others] + [f"{names[0]}\nGB/s"]
    rows = []
    for (size,), group in _by(cases, "message_bytes"):
        of = {case["transport"]: case for case in group}
        ratio = ratios.get((group[0]["operation"], group[0]["mode"], size), {})
        speeds = ratio.get("speed", {})
        cells = [_cell(of.get(name), lambda case: _microseconds(case["seconds"])) for name in names]
        cells += [_cell(of.get(name), lambda case: f"{case['overlap']:.0%}") for name in names if hides]
        cells += [_cell(ratio.get("overhead_s"), lambda seconds: f"{seconds * 1e6:+.1f}")] * (BARE in others)
        cells += [_cell(speeds.get(name), lambda speed: f"{speed:.2f}") for name in others]
        rows.append((_size(size), *cells, _cell(of.get(names[0]), lambda case: f"{case['median'] / 1e9:.3g}")))
    return tables_of(columns, rows, title, width)


def _lines(rows: Sequence[Row]) -> Table:
    columns = (*_SERIES, "alpha us", "beta GB/s", "mean\ndeviation")
    made = table(*columns, title="seconds = alpha + bytes that a rank receives / beta")
    for row in rows:
        beta = _cell(row["bytes_per_s"], lambda rate: f"{rate / 1e9:.3g}")
        made.add_row(*(row[name] for name in _SERIES), _microseconds(row["alpha_s"]), beta, f"{row['deviation']:.0%}")
    return made


def _by(rows: Sequence[Row], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Groups of rows that have these values in common, in the order in which they first appear."""
    key = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
    order = {value: place for place, value in enumerate(dict.fromkeys(map(key, rows)))}
    for value, group in groupby(sorted(rows, key=lambda row: order[key(row)]), key):
        yield value, list(group)


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _cell(value: Any, show: Any) -> str:
    return "-" if value is None else show(value)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def _size(nbytes: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{nbytes} B"
