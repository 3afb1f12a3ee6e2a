"""What a trace says in numbers: how busy each rank was, what it waited for, and what the run waited for."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.instruments.report.tables import table, tables_of
from mpi_spp.instruments.trace.critical_path import critical_path
from mpi_spp.instruments.trace.states import BUBBLE, BUSY, EXPOSED, Piece, pieces_of
from mpi_spp.instruments.trace.timeline import Timeline, window_of
from mpi_spp.system.units import counted


def summarize_trace(timelines: list[Timeline]) -> dict[str, Any]:
    """All times in seconds, within the window from the first computation of any rank to the last one's end.

    A rank's busy, bubble, exposed and other time add up to the window; waiting is bubble and exposed together.
    """
    first, last = window_of(timelines)
    pieces = pieces_of(timelines)
    return {
        "world_size": len(timelines),
        "window_s": (last - first) / 1e9,
        "ranks": [_of_rank(one, pieces[one.rank], last - first) for one in timelines],
        "critical_path": _path(timelines),
    }


def print_trace_summary(summary: dict[str, Any], console: Console) -> None:
    """One row a rank, one a kind of work, and the critical path."""
    console.print(_ranks(summary))
    for made in _work(summary, console.width):
        console.print(made)
    path = summary["critical_path"]
    by_rank = ", ".join(f"rank {rank} {seconds:.3f} s" for rank, seconds in enumerate(path["work_s"]))
    console.print(
        f"critical path: {summary['window_s']:.3f} s = work of {by_rank}, and {path['messages_s']:.3f} s for"
        f" {counted(path['messages'], 'message')}",
        highlight=False,
    )
    if dropped := sum(rank["dropped"] for rank in summary["ranks"]):
        console.print(f"not in this trace: {dropped} later events; trace a shorter run", highlight=False)


def _of_rank(timeline: Timeline, pieces: list[Piece], window: int) -> dict[str, Any]:
    states: Counter[str] = Counter()
    work: Counter[str] = Counter()
    for piece in pieces:
        states[piece.state] += piece.end - piece.start
        if piece.state == BUSY:
            work[kind_of(piece.inner.name)] += piece.end - piece.start
    sends = [message.facts["bytes"] for message in timeline.of("message") if message.facts["kind"] == "send"]
    return {
        "rank": timeline.rank,
        "host": timeline.host,
        "busy_s": states[BUSY] / 1e9,
        "waiting_s": (states[BUBBLE] + states[EXPOSED]) / 1e9,
        "bubble_s": states[BUBBLE] / 1e9,
        "exposed_s": states[EXPOSED] / 1e9,
        "other_s": (window - states.total()) / 1e9,
        "work_s": {name: ns / 1e9 for name, ns in work.most_common()},
        "messages": len(timeline.of("message")),
        "sends": len(sends),
        "bytes_in_sends": sum(sends),
        "clock": timeline.clock,
        "dropped": timeline.dropped,
    }


def kind_of(name: str) -> str:
    """`layer` of `layer 12`."""
    return name.rstrip("0123456789").rstrip()


def _path(timelines: list[Timeline]) -> dict[str, Any]:
    path = critical_path(timelines)
    messages = [segment for segment in path if segment.is_message]
    work = Counter({one.rank: 0 for one in timelines})
    for segment in path:
        if not segment.is_message:
            work[segment.rank] += segment.end - segment.start
    return {
        "work_s": [work[one.rank] / 1e9 for one in timelines],
        "messages_s": sum(segment.end - segment.start for segment in messages) / 1e9,
        "messages": len(messages),
        "segments": [segment._asdict() for segment in path],
    }


def _ranks(summary: dict[str, Any]) -> Table:
    columns = ("rank", "host", "busy s", "busy", "bubble s", "exposed s", "other s", "messages", "MB in\nsends")
    made = table(*columns, wraps=["host"])
    made.title = (
        f"{counted(summary['world_size'], 'rank')}, {summary['window_s']:.3f} s from the first computation to the last"
    )
    made.caption = "bubble: waits for a rank that was late; exposed: for a message on its way"
    for rank in summary["ranks"]:
        made.add_row(
            str(rank["rank"]),
            rank["host"],
            f"{rank['busy_s']:.3f}",
            f"{rank['busy_s'] / summary['window_s']:.1%}" if summary["window_s"] else "-",
            *(f"{rank[name]:.3f}" for name in ("bubble_s", "exposed_s", "other_s")),
            str(rank["messages"]),
            f"{rank['bytes_in_sends'] / 1e6:.2f}",
        )
    return made


def _work(summary: dict[str, Any], width: int) -> Iterator[Table]:
    """Seconds of every kind of work, by rank."""
    kinds = list(dict.fromkeys(kind for rank in summary["ranks"] for kind in rank["work_s"]))
    rows = [(kind, *(f"{rank['work_s'].get(kind, 0.0):.3f}" for rank in summary["ranks"])) for kind in kinds]
    return tables_of(["work", *(f"rank {rank['rank']}" for rank in summary["ranks"])], rows, "seconds of work", width)
