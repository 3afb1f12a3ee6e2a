"""What a rank was doing at any time: working, waiting for a rank that was late, or for a message on its way."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mpi_spp.instruments.trace.timeline import Event, Timeline, in_order, starts_of_messages, window_of

BUSY, BUBBLE, EXPOSED = "busy", "bubble", "exposed"


class Piece(NamedTuple):
    """From `start` to `end` a rank was in one state; in none of them it is in no piece.

    busy: it computed. bubble: it waited, and a rank that must take part had not begun. exposed: it waited for a message
    that all its ranks had begun with. `outer`: the outermost work that it lies in; `inner`: what it does or waits for.
    """

    state: str
    start: int
    end: int
    outer: Event | None
    inner: Event


def pieces_of(timelines: list[Timeline]) -> dict[int, list[Piece]]:
    """The pieces of every rank, by rank, in order, within the window."""
    first, last = window_of(timelines)
    ready = {name: max(starts.values()) for name, starts in starts_of_messages(timelines).items()}
    return {
        timeline.rank: [
            piece._replace(start=max(first, piece.start), end=min(last, piece.end))
            for piece in _pieces(timeline.events, ready)
            if piece.start < last and piece.end > first
        ]
        for timeline in timelines
    }


def _pieces(events: Iterable[Event], ready: Mapping[str, int]) -> Iterator[Piece]:
    for start, end, stack in _innermost(event for event in events if event.category != "message"):
        inner, outer = stack[-1], next((event for event in stack if event.category == "compute"), None)
        if inner.category == "compute":
            yield Piece(BUSY, start, end, outer, inner)
        elif inner.category == "wait":
            begun = min(end, max(start, _begun(inner, ready)))
            if begun > start:
                yield Piece(BUBBLE, start, begun, outer, inner)
            if end > begun:
                yield Piece(EXPOSED, begun, end, outer, inner)


def _begun(wait: Event, ready: Mapping[str, int]) -> int:
    """When all ranks had begun with what is waited for; nobody had when it is a message of whoever speaks first."""
    return wait.end if wait.message is None else ready.get(wait.message, wait.start)


def _innermost(events: Iterable[Event]) -> Iterator[tuple[int, int, list[Event]]]:
    """Cut time where events begin and end; with each part the events that it lies in, the outermost first."""
    stack: list[Event] = []
    at = 0

    def until(end: int) -> Iterator[tuple[int, int, list[Event]]]:
        nonlocal at
        if stack and end > at:
            yield at, end, stack
        at = max(at, end)

    for event in sorted(events, key=in_order):
        while stack and stack[-1].end <= event.start:
            yield from until(stack[-1].end)
            stack.pop()
        yield from until(event.start)
        stack.append(event)
    while stack:
        yield from until(stack[-1].end)
        stack.pop()
