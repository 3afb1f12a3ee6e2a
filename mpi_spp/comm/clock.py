"""The clocks of the ranks against each other: how far each is ahead of rank 0's, measured by messages to and fro."""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import NamedTuple

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.mailbox import share

_ROUNDS = 64
_TAG = 78


class RoundTrip(NamedTuple):
    """A message of rank 0 and its answer: sent and returned by rank 0's clock, received and answered by the other's."""

    sent: int
    received: int
    answered: int
    returned: int


class ClockOffset(NamedTuple):
    """How far a rank's clock was ahead of rank 0's when it showed `at_ns`; off by half of `round_trip_ns` at most."""

    at_ns: int
    ahead_ns: int
    round_trip_ns: int


def compare_clocks(comm: Communicator) -> list[ClockOffset]:
    """Every rank's `time.perf_counter_ns` against that of rank 0, on all ranks. Collective; some ms a rank."""
    now = perf_counter_ns()
    offsets = [ClockOffset(now, 0, 0)]
    if comm.is_first:
        offsets += [offset_of(_ask(comm, other)) for other in range(1, comm.size)]
    else:
        _answer(comm)
    return share(comm, offsets)


def offset_of(round_trips: Sequence[RoundTrip]) -> ClockOffset:
    """The quickest way there and the quickest way back say most: noise only delays (Cristian, 1989)."""
    there = min(trip.received - trip.sent for trip in round_trips)  # the offset and the way there
    back = max(trip.answered - trip.returned for trip in round_trips)  # the offset less the way back
    return ClockOffset(round_trips[-1].received, (there + back) // 2, there - back)


class CommonClock:
    """What rank 0's clock showed, in ns since `origin_ns`, when this rank's showed something.

    Between two comparisons the offset is taken to change evenly, as that of two quartzes does.
    """

    def __init__(self, first: ClockOffset, last: ClockOffset, origin_ns: int) -> None:
        self._start, self._behind = first.at_ns, first.ahead_ns + origin_ns
        self._drift = (last.ahead_ns - first.ahead_ns) / max(1, last.at_ns - first.at_ns)

    def __call__(self, ns: int) -> int:
        """`ns`: of this rank's clock."""
        return ns - self._behind - round((ns - self._start) * self._drift)


def _ask(comm: Communicator, other: int) -> list[RoundTrip]:
    question, answer = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    trips = []
    for _ in range(_ROUNDS):
        arrival = comm.irecv(answer, other, _TAG)
        sent = perf_counter_ns()
        departure = comm.isend(question, other, _TAG)
        comm.wait(arrival)
        returned = perf_counter_ns()
        comm.wait(departure)
        received, answered = answer.tolist()
        trips.append(RoundTrip(sent, received, answered, returned))
    return trips


def _answer(comm: Communicator) -> None:
    question, answer = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    times = answer.numpy()  # quicker to write than a tensor
    for _ in range(_ROUNDS):
        comm.wait(comm.irecv(question, 0, _TAG))
        times[0] = perf_counter_ns()
        times[1] = perf_counter_ns()
        comm.wait(comm.isend(answer, 0, _TAG))
