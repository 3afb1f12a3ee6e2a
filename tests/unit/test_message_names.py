"""Messages and waits as a trace sees them: their times, and names that both ends count alike."""

from collections.abc import Iterator

import pytest

from mpi_spp.comm import trace
from mpi_spp.comm.operation import Operation, happened, waiting
from mpi_spp.comm.trace import Stopwatch, TimedOperation, message_names, observed_by, one_line

SEND, RECEIVE = Operation("send", "replica", (1,), 64, 3), Operation("receive", "replica", (1,), 64, 3)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is ahead by 1 each time that it is looked at."""
    count = iter(range(1000))
    monkeypatch.setattr(trace, "perf_counter_ns", lambda: next(count))


class Watched:
    """What a stopwatch hands on."""

    def __init__(self) -> None:
        self.messages: list[TimedOperation] = []
        self.waits: list[TimedOperation] = []
        self.stopwatch = Stopwatch(self.messages.append, self.waits.append)


@pytest.fixture
def watched(ticks: None) -> Iterator[Watched]:
    watched = Watched()
    with observed_by(watched.stopwatch):
        yield watched


def test_equal_messages_may_be_under_way_together(watched: Watched) -> None:
    first, second = SEND, SEND._replace()
    watched.stopwatch.started(first)
    watched.stopwatch.started(second)
    watched.stopwatch.completed(second)
    watched.stopwatch.completed(first)
    assert watched.messages == [(second, 1, 2), (first, 0, 3)]


def test_a_wait_is_for_a_message_that_was_started(watched: Watched) -> None:
    watched.stopwatch.started(RECEIVE)
    with waiting(RECEIVE):
        watched.stopwatch.completed(RECEIVE)
    assert watched.messages == [(RECEIVE, 0, 2)]
    assert watched.waits == [(RECEIVE, 1, 3)]


def test_a_call_that_waits_in_mpi_is_a_message_too(watched: Watched) -> None:
    total = Operation("sum", "shards", (1, 2), 8)
    with waiting(total):
        pass
    assert watched.messages == watched.waits == [(total, 0, 1)]


def test_waits_may_lie_one_within_another(watched: Watched) -> None:
    outer, inner = (Operation(kind, "job", (1,)) for kind in ("broadcast", "barrier"))
    with waiting(outer), waiting(inner):
        pass
    assert watched.waits == [(inner, 1, 2), (outer, 0, 3)]


def test_waiting_for_whoever_speaks_first_is_no_message(watched: Watched) -> None:
    with waiting(Operation("receive", "mailbox", (1, 2))):
        happened(Operation("receive", "mailbox", (2,)))
    assert [operation.others for operation, _, _ in watched.messages] == [(2,)]
    assert [operation.others for operation, _, _ in watched.waits] == [(1, 2)]


def test_what_never_ends_is_told_at_the_end(watched: Watched) -> None:
    watched.stopwatch.started(SEND)
    watched.stopwatch.stop()
    assert watched.messages == [(SEND, 0, 1)]


def test_nobody_looks_on_afterwards(ticks: None) -> None:
    watched = Watched()
    with observed_by(watched.stopwatch):
        happened(SEND)
    happened(SEND)
    assert len(watched.messages) == 1


def test_both_ends_give_a_message_the_same_name() -> None:
    """Other tags, directions and conversations are counted by themselves."""
    there = [Operation("send", "replica", (1,), tag=tag) for tag in (0, 5, 0)]
    here = [Operation("receive", "replica", (0,), tag=tag) for tag in (5, 0, 0)]
    noise = [Operation("receive", "replica", (1,)), Operation("send", "KV sync", (1,))]
    sent = message_names(0, [noise[0], *there, noise[1]])
    received = message_names(1, here)
    assert sent[1:4] == ["replica: 0 to 1, tag 0 #0", "replica: 0 to 1, tag 5 #0", "replica: 0 to 1, tag 0 #1"]
    assert received == [sent[2], sent[1], sent[3]]
    assert len(set(sent)) == len(sent)


def test_collective_calls_are_counted_by_kind_and_ranks() -> None:
    def calls(rank: int) -> list[Operation]:
        others = tuple(other for other in (2, 0, 1) if other != rank)
        return [Operation(kind, "shards", others) for kind in ("sum", "broadcast", "sum")]

    names = message_names(0, calls(0))
    assert names == ["shards: sum of 0,1,2 #0", "shards: broadcast of 0,1,2 #0", "shards: sum of 0,1,2 #1"]
    assert message_names(2, calls(2)) == names
    assert message_names(0, [Operation("sum", "shards", (1,))]) == ["shards: sum of 0,1 #0"]


@pytest.mark.parametrize(
    "operation, line",
    [
        (SEND, "0.000002 r0 send -> r1, replica, tag 3, 64 B, 35.2 us"),
        (RECEIVE, "0.000002 r0 receive <- r1, replica, tag 3, 64 B, 35.2 us"),
        (Operation("sum", "shards", (1, 2), 8), "0.000002 r0 sum with r1 r2, shards, tag 0, 8 B, 35.2 us"),
    ],
)
def test_a_line_of_a_message(operation: Operation, line: str) -> None:
    assert one_line(0, (operation, 3_500, 38_700), 1_500) == line
