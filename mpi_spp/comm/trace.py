"""Messages and waits of this rank with their times, and the names by which all ranks of a message know it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from mpi_spp.comm.operation import Observer, Operation, observers

TimedOperation = tuple[Operation, int, int]  # its start and end, of time.perf_counter_ns

_BETWEEN_TWO = ("send", "receive")


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let it look on at what this rank does."""
    observers.append(observer)
    try:
        yield
    finally:
        observers.remove(observer)


class Stopwatch:
    """An observer that hands on every message when it is complete, and every wait when it is over."""

    def __init__(
        self, message: Callable[[TimedOperation], object], wait: Callable[[TimedOperation], object] = lambda timed: None
    ) -> None:
        self._tell_message, self._tell_wait = message, wait
        self._under_way: dict[int, tuple[Operation, int]] = {}  # by identity: equal ones may be under way together
        self._waiting: list[tuple[Operation, int, bool]] = []  # one within another

    def started(self, operation: Operation) -> None:
        """See Observer."""
        self._under_way[id(operation)] = operation, perf_counter_ns()

    def completed(self, operation: Operation) -> None:
        """See Observer."""
        began = self._under_way.pop(id(operation), None)
        if began is not None:
            self._tell_message((operation, began[1], perf_counter_ns()))

    def waits(self, operation: Operation) -> None:
        """See Observer."""
        # A call in which MPI itself waits was never started: it is message and wait in one.
        blocks = id(operation) not in self._under_way and operation.kind not in _BETWEEN_TWO
        self._waiting.append((operation, perf_counter_ns(), blocks))

    def goes_on(self) -> None:
        """See Observer."""
        operation, start, blocks = self._waiting.pop()
        timed = operation, start, perf_counter_ns()
        self._tell_wait(timed)
        if blocks:
            self._tell_message(timed)

    def stop(self) -> None:
        """Hand on what is still under way, as if it ended now: those that follow it must keep their numbers."""
        now = perf_counter_ns()
        for operation, start in self._under_way.values():
            self._tell_message((operation, start, now))
        self._under_way.clear()


def message_names(rank: int, operations: Iterable[Operation]) -> list[str]:
    """A name for each message of this rank, the same on every rank that takes part in it.

    `operations`: in the order in which they were started. Messages between two ranks with one tag in one conversation
    do not overtake each other, nor do collective calls of the same ranks, so both sides count alike.
    """
    counts: Counter[str] = Counter()
    names = []
    for operation in operations:
        kind = _kind(rank, operation)
        names.append(f"{kind} #{counts[kind]}")
        counts[kind] += 1
    return names


def _kind(rank: int, operation: Operation) -> str:
    if operation.kind in _BETWEEN_TWO:
        (peer,) = operation.others
        sender, receiver = (rank, peer) if operation.kind == "send" else (peer, rank)
        return f"{operation.comm}: {sender} to {receiver}, tag {operation.tag}"
    members = ",".join(map(str, sorted((rank, *operation.others))))
    return f"{operation.comm}: {operation.kind} of {members}"


def one_line(rank: int, timed: TimedOperation, origin_ns: int) -> str:
    """`0.123456 r0 send -> r1, KV sync, tag 3, 73728 B, 35.2 us`: its start in seconds since the origin, and so on."""
    operation, start, end = timed
    arrow = {"send": "->", "receive": "<-"}.get(operation.kind, "with")
    peers = " ".join(f"r{other}" for other in operation.others)
    return (
        f"{(start - origin_ns) / 1e9:.6f} r{rank} {operation.kind} {arrow} {peers}, {operation.comm},"
        f" tag {operation.tag}, {operation.nbytes} B, {(end - start) / 1e3:.1f} us"
    )
