"""The chain of work and messages that decided how long a run took: shortening anything else would not have helped."""

from bisect import bisect_right
from typing import NamedTuple

from mpi_spp.instruments.trace.timeline import Event, Timeline, starts_of_messages, window_of


class Segment(NamedTuple):
    """A part of the path: work of a rank, or a message that reached it (`is_message`), from start to end in ns."""

    rank: int
    is_message: bool
    start: int
    end: int


def critical_path(timelines: list[Timeline]) -> list[Segment]:
    """The path from the beginning of the window to its end, in order and without gaps; empty without any work.

    Found backwards from the rank that ended last: before a wait for a rank that was late stands what that rank did
    until it began with the message; before any other wait, what the rank itself did. (Böhme et al., 2012)
    """
    first, last = window_of(timelines)
    waits = {one.rank: sorted(one.of("wait"), key=lambda wait: wait.end) for one in timelines}
    ends = {rank: [wait.end for wait in of_rank] for rank, of_rank in waits.items()}
    starts = starts_of_messages(timelines)
    rank, at, path = _last_rank(timelines, last), last, list[Segment]()
    while at > first:
        number = bisect_right(ends[rank], at) - 1
        wait = waits[rank][number] if number >= 0 else None
        if wait is None or wait.end <= first:
            path.append(Segment(rank, False, first, at))
            break
        if wait.end < at:
            path.append(Segment(rank, False, wait.end, at))
        came_from, began = _latest(wait, rank, starts)
        began = max(first, min(began, wait.end - 1))
        path.append(Segment(rank, True, began, wait.end))
        rank, at = came_from, began
    return path[::-1]


def _last_rank(timelines: list[Timeline], last: int) -> int:
    ended = (one.rank for one in timelines if any(event.end == last for event in one.of("compute")))
    return next(ended, 0)


def _latest(wait: Event, rank: int, starts: dict[str, dict[int, int]]) -> tuple[int, int]:
    """The rank that was waited for, and when it began; the waiting rank and its wait where no other was late."""
    began = {} if wait.message is None else starts.get(wait.message, {})
    latest = max(began, key=began.__getitem__, default=rank)
    if latest == rank or began[latest] <= wait.start:
        return rank, wait.start
    return latest, began[latest]
