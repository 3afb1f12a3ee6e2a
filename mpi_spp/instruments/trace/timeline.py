"""What all ranks did, on one clock: the events of a trace."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

# What an event is: a part of the run, work of the rank, a time in which it waits, or a message on its way.
CATEGORIES = ("phase", "compute", "wait", "message")


class Event(NamedTuple):
    """From `start` to `end`, in ns since the trace began.

    A message, and a wait for one, have its name as `facts["message"]`; it is the same on all its ranks.
    """

    category: str
    name: str
    start: int
    end: int
    facts: dict[str, Any]

    @property
    def message(self) -> str | None:
        """The name of the message that it is, or waits for; None for a wait for whatever comes."""
        return self.facts.get("message")


@dataclass(frozen=True)
class Timeline:
    """Of one rank. `clock`: how far its clock was ahead, in ns, and how sure that is; `dropped`: events not kept."""

    rank: int
    host: str
    events: list[Event]
    clock: dict[str, int] = field(default_factory=dict)
    dropped: int = 0

    def of(self, category: str) -> list[Event]:
        """Its events of one category, by their start, the outer before the inner."""
        return sorted((event for event in self.events if event.category == category), key=in_order)


def in_order(event: Event) -> tuple[int, int]:
    """Sorts events by their start, the outer before the inner."""
    return event.start, -event.end


def window_of(timelines: list[Timeline]) -> tuple[int, int]:
    """What counts: from the start of the first prefill to the end of all computation; (0, 0) without any.

    What is computed before it only measures how to run the model.
    """
    events = [event for timeline in timelines for event in timeline.events]
    work = [event for event in events if event.category == "compute"]
    prefills = [event for event in events if event.category == "phase" and event.name == "prefill"]
    return min((event.start for event in prefills or work), default=0), max((event.end for event in work), default=0)


def starts_of_messages(timelines: list[Timeline]) -> dict[str, dict[int, int]]:
    """By a message's name: when each of its ranks began with it."""
    starts: dict[str, dict[int, int]] = {}
    for timeline in timelines:
        for event in timeline.of("message"):
            starts.setdefault(event.facts["message"], {})[timeline.rank] = event.start
    return starts
