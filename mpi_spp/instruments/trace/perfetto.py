"""Timelines in the JSON format of traces that Perfetto and chrome://tracing read, and back.

Source: "Trace Event Format", Google, 2016. A rank is a process; what may overlap on a rank has threads of its own.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.instruments.trace.timeline import CATEGORIES, Event, Timeline, in_order
from mpi_spp.system.files import MOST_TEXT_BYTES, read_beginning, read_text
from mpi_spp.system.outputs import written

_WRITER = "mpi-spp"
_FIRST_PID = 1000  # shown behind a rank's name, so it must look like none; 0 would be the idle task of a kernel
_MARGIN_NS = 100
_MOST_NS = 1 << 62  # of a clock
_MOST_BYTES = 2 << 30  # of a file
_MOST_BYTES_SENT = 1 << 62
_POSTED = "posted_ns"  # of a receive that is drawn from its sending on
_LANES = {"send": "sends", "receive": "receives"}  # by kind of message; all others are collective

_Entry = dict[str, Any]
_End = tuple[int, int, Event]  # a rank's side of a message: process, thread, event


def write_trace(path: Path, timelines: list[Timeline]) -> None:
    """One file of all ranks. Raises UserError where it cannot be written."""
    with written("--trace", path) as file:
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[')
        for number, entry in enumerate(_entries(timelines)):
            file.write(((",\n" if number else "\n") + json.dumps(entry, separators=(",", ":"))).encode())
        file.write(('\n],"otherData":' + json.dumps(_about(timelines)) + "}\n").encode())


def read_trace(path: Path) -> list[Timeline]:
    """The timelines of a file that `write_trace` wrote, in the order of ranks. Raises UserError for any other file."""
    what = f"{path}: is no trace of mpi-spp; give a file that `--trace FILE` has written"
    if path.is_file() and not read_beginning(str(path), path).lstrip().startswith(b"{"):
        raise UserError(what)  # before gigabytes of something else are in memory
    text = read_text(str(path), path, _MOST_BYTES if path.is_file() else MOST_TEXT_BYTES)
    try:
        content = json.loads(text)
        if content["otherData"]["writer"] == _WRITER:
            return _timelines(content)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise UserError(what)


def placed(timeline: Timeline) -> list[tuple[str, list[Event]]]:
    """The events of a rank by thread, on which they lie one within another, or apart; several may have one name."""
    threads: dict[str, list[Event]] = {"compute": [], "waits": []}
    lanes: dict[str, list[list[Event]]] = {"sends": [], "receives": [], "collectives": []}
    for event in sorted(timeline.events, key=in_order):
        if event.category == "message":
            _free_lane(lanes[_LANES.get(event.facts["kind"], "collectives")], event.start).append(event)
        else:
            threads["waits" if event.category == "wait" else "compute"].append(event)
    return [*threads.items(), *((name, lane) for name, of_kind in lanes.items() for lane in of_kind)]


def _free_lane(lanes: list[list[Event]], start: int) -> list[Event]:
    """The first lane on which nothing is under way any more."""
    for lane in lanes:
        if lane[-1].end <= start:
            return lane
    lanes.append([])
    return lanes[-1]


def _entries(timelines: list[Timeline]) -> Iterator[_Entry]:
    """Names of processes and threads, slices, and the arrows between the slices of a message."""
    ends: dict[str, list[_End]] = defaultdict(list)
    threads = count(1)  # no number comes twice: viewers may know a thread by it alone
    for timeline in _drawn(timelines):
        pid = timeline.rank + _FIRST_PID
        yield from _titles("process", pid, 0, f"rank {timeline.rank} on {timeline.host}", timeline.rank)
        for name, events in placed(timeline):
            tid = next(threads)
            yield from _titles("thread", pid, tid, name, tid)
            for event in events:
                yield _slice(pid, tid, event)
                if event.category == "message":
                    ends[event.facts["message"]].append((pid, tid, event))
    numbers = count(1)
    for sides in ends.values():
        yield from _arrows(sides, numbers)


def _drawn(timelines: list[Timeline]) -> Iterator[Timeline]:
    """Receives begin when they are sent: Perfetto lets every arrow go from the slice that begins first."""
    messages = [event for timeline in timelines for event in timeline.of("message")]
    sent = {event.facts["message"]: event.start for event in messages if event.facts["kind"] == "send"}

    def drawn(event: Event) -> Event:
        start = sent.get(event.facts["message"], -1) + 1
        if event.facts["kind"] != "receive" or not event.start < start < event.end:
            return event
        return event._replace(start=start, facts=event.facts | {_POSTED: event.start})

    for timeline in timelines:
        yield replace(timeline, events=[drawn(e) if e.category == "message" else e for e in timeline.events])


def _titles(kind: str, pid: int, tid: int, name: str, place: int) -> Iterator[_Entry]:
    for what, value in (("name", {"name": name}), ("sort_index", {"sort_index": place})):
        yield {"ph": "M", "pid": pid, "tid": tid, "name": f"{kind}_{what}", "args": value}


def _slice(pid: int, tid: int, event: Event) -> _Entry:
    nanoseconds = max(1, event.end - event.start)  # an arrow finds no slice that takes no time
    times = {"ts": event.start / 1000, "dur": nanoseconds / 1000}
    return {"ph": "X", "pid": pid, "tid": tid, **times, "cat": event.category, "name": event.name, "args": event.facts}


def _arrows(sides: list[_End], numbers: Iterator[int]) -> Iterator[_Entry]:
    """From the sender to the receiver; to the rank that came to a collective call last from all that waited for it."""
    last = max(sides, key=lambda side: side[2].start)
    for side in sides:
        if side is not last:
            flow = {"cat": "flow", "name": "message", "id": next(numbers)}
            yield {"ph": "s", **_near(side, side[2].start), **flow}
            yield {"ph": "f", "bp": "e", **_near(last, last[2].end), **flow}


def _near(side: _End, ns: int) -> _Entry:
    """A little within the slice: readers round its ends, and an arrow beside it would be lost."""
    pid, tid, event = side
    margin = min(_MARGIN_NS, (event.end - event.start) // 2)
    return {"pid": pid, "tid": tid, "ts": min(max(ns, event.start + margin), event.end - margin) / 1000}


def _about(timelines: list[Timeline]) -> _Entry:
    names = ("rank", "host", "clock", "dropped")
    return {"writer": _WRITER, "ranks": [{name: getattr(one, name) for name in names} for one in timelines]}


def _timelines(content: _Entry) -> list[Timeline]:
    """Raises any of the errors that `read_trace` expects where something is not as `write_trace` writes it."""
    events: dict[int, list[Event]] = defaultdict(list)
    for entry in content["traceEvents"]:
        if entry["ph"] == "X" and entry["cat"] in CATEGORIES:
            events[entry["pid"] - _FIRST_PID].append(_event(entry))
    timelines = [
        Timeline(about["rank"], about["host"], events[about["rank"]], dict(about["clock"]), int(about["dropped"]))
        for about in content["otherData"]["ranks"]
    ]
    if [one.rank for one in timelines] != list(range(len(timelines))) or not all(one.host.strip() for one in timelines):
        raise ValueError("ranks are not counted from 0 up")
    return timelines


def _event(entry: _Entry) -> Event:
    start, facts = round(entry["ts"] * 1000), dict(entry["args"])
    end = start + round(entry["dur"] * 1000)
    posted = facts.pop(_POSTED, start)
    if not -_MOST_NS < posted <= end < _MOST_NS or not entry["name"].strip():
        raise ValueError("times are none of a run")
    if entry["cat"] == "message":
        named = facts["kind"].strip() and facts["message"].strip()
        if not named or not 0 <= facts["bytes"] < _MOST_BYTES_SENT:
            raise ValueError("a message has no kind, name or length")
    return Event(entry["cat"], entry["name"], posted, end, facts)
