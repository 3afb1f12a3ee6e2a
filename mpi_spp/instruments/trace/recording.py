"""One timeline of all ranks: each keeps what it does, and at the end rank 0 writes all of it on its own clock."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from mpi_spp.comm.clock import ClockOffset, CommonClock, compare_clocks
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.mailbox import collect
from mpi_spp.comm.operation import Operation
from mpi_spp.comm.trace import Stopwatch, TimedOperation, message_names, observed_by, one_line
from mpi_spp.comm.world import World
from mpi_spp.instruments.trace.perfetto import write_trace
from mpi_spp.instruments.trace.timeline import Event, Timeline
from mpi_spp.system.timed import PHASES, TimedWork, keeping_timed
from mpi_spp.system.units import counted

log = logging.getLogger(__name__)

_MOST = 300_000  # of a kind on a rank: some 200 MB together, and more than a viewer shows

T = TypeVar("T")
Clock = Callable[[int], int]


class Kept(Generic[T]):
    """The first of what happens: a run of hours must not fill the memory."""

    def __init__(self) -> None:
        self.events: list[T] = []
        self.dropped = 0

    def add(self, event: T) -> None:
        """Keep one more, or count it."""
        if len(self.events) < _MOST:
            self.events.append(event)
        else:
            self.dropped += 1


class Record:
    """What this rank did, by its own clock."""

    def __init__(self) -> None:
        self._work, self._messages, self._waits = Kept[TimedWork](), Kept[TimedOperation](), Kept[TimedOperation]()
        self._stopwatch = Stopwatch(self._messages.add, self._waits.add)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep what happens while it is open."""
        with keeping_timed(self._work.add), observed_by(self._stopwatch):
            yield
        self._stopwatch.stop()

    def timeline(self, rank: int, host: str, clock: Clock, about_clock: dict[str, int]) -> Timeline:
        """All of it in the time that `clock` makes of this rank's own."""
        messages = sorted(self._messages.events, key=lambda timed: timed[1])
        names = message_names(rank, (operation for operation, _, _ in messages))
        name_of = {id(timed[0]): name for timed, name in zip(messages, names, strict=True)}
        events = [_event_of_work(work, clock) for work in self._work.events]
        for category, kept in (("message", messages), ("wait", self._waits.events)):
            events += (_event(timed, category, name_of, clock) for timed in kept if timed[0].others)
        dropped = self._work.dropped + self._messages.dropped + self._waits.dropped
        return Timeline(rank, host, events, about_clock, dropped)


class Shown:
    """Prints the first message of each kind and pair of ranks, since a short answer has hundreds; logs all."""

    def __init__(self, rank: int, origin_ns: int) -> None:
        self._rank, self._origin_ns, self._seen, self.left = rank, origin_ns, set[tuple[object, ...]](), 0

    def add(self, timed: TimedOperation) -> None:
        """It is complete."""
        operation = timed[0]
        if not operation.others:
            return
        line, kind = one_line(self._rank, timed, self._origin_ns), (operation.kind, operation.comm, operation.others)
        log.info(line)
        if kind in self._seen:
            self.left += 1
        else:
            self._seen.add(kind)
            _print(line)


@contextmanager
def tracing(world: World, file: Path | None, prints_messages: bool) -> Iterator[None]:
    """While it is open keep what all ranks do, and then write it to the file on rank 0. Collective.

    None: no file. `prints_messages`: every rank prints the first of its messages of each kind on standard error when it
    is complete, and writes all of them to its log, if it has one. Raises UserError on all ranks when the
    file cannot be written.
    """
    comm = Communicator(world.mpi_comm, shares_core=True, name="trace")
    first, record = compare_clocks(comm), Record()
    with ExitStack() as looking_on:
        shown = Shown(world.rank, first[0].at_ns + first[world.rank].ahead_ns)
        if prints_messages:
            looking_on.enter_context(observed_by(Stopwatch(shown.add)))
        if file is not None:
            looking_on.enter_context(record.open())
        yield
    if prints_messages and (left := sum(world.gather(shown.left))) and world.rank == 0:
        _print(f"mpi-spp: {counted(left, 'more such message')}; --trace FILE or --log-dir DIR has all")
    if file is not None:
        timelines = collect(comm, _timeline(record, world, first, compare_clocks(comm)))
        world.together(lambda: _write(file, timelines) if world.rank == 0 else None)


def _timeline(record: Record, world: World, first: list[ClockOffset], last: list[ClockOffset]) -> Timeline:
    before, after = first[world.rank], last[world.rank]
    about_clock = {
        "ahead_at_start_ns": before.ahead_ns,
        "ahead_at_end_ns": after.ahead_ns,
        "round_trip_ns": max(before.round_trip_ns, after.round_trip_ns),
    }
    return record.timeline(world.rank, world.host, CommonClock(before, after, first[0].at_ns), about_clock)


def _write(file: Path, timelines: list[Timeline]) -> None:
    write_trace(file, timelines)
    count = sum(len(timeline.events) for timeline in timelines)
    _print(
        f"mpi-spp: {file}: {counted(count, 'event')} of {counted(len(timelines), 'rank')}; open it in https://ui.perfetto.dev"
    )


def _event_of_work(work: TimedWork, clock: Clock) -> Event:
    name, number, facts, start, end = work
    title = name if number is None else f"{name} {number}"
    return Event("phase" if name in PHASES else "compute", title, clock(start), clock(end), facts)


def _event(timed: TimedOperation, category: str, name_of: dict[int, str], clock: Clock) -> Event:
    """`name_of`: the message's name, by the identity of its operation."""
    operation, start, end = timed
    facts: dict[str, Any] = {"kind": operation.kind, "conversation": operation.comm, "with": list(operation.others)}
    facts |= {"tag": operation.tag, "bytes": operation.nbytes}
    if id(operation) in name_of:
        facts["message"] = name_of[id(operation)]
    title = _title(operation) if category == "message" else f"wait: {_title(operation)}"
    return Event(category, title, clock(start), clock(end), facts)


def _title(operation: Operation) -> str:
    way = {"send": "to", "receive": "from"}.get(operation.kind)
    peers = " or ".join(map(str, operation.others))
    return operation.kind if way is None else f"{operation.kind} {way} {peers}"


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
