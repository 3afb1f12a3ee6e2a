"""What a message costs between the ranks of a job: measured in a tenth of a second."""

import time
from collections.abc import Callable

import torch

from mpi_spp.comm.communicator import Communicator

_LARGE = 1 << 20
_ROUNDS, _LARGE_ROUNDS = 20, 4
_TAG = 77


def measure_link(comm: Communicator, hidden_size: int) -> tuple[float, float, float]:
    """Seconds of an empty message, bytes a second, seconds of the all-reduce of one hidden state. Collective.

    Between the first rank and the last: where ranks are placed host by host that is the longest way. The least of
    several rounds counts: noise only adds.
    """
    latency, rate = _measure(comm, 0, comm.size - 1, comm.barrier)
    row = torch.zeros(hidden_size)
    return latency, rate, _least(lambda: comm.sum_in_place(row), _ROUNDS, comm.barrier)


def measure_pair(comm: Communicator, first: int, second: int) -> tuple[float, float]:
    """Seconds of an empty message and bytes a second between two ranks, who alone call this; the first one's count."""
    return _measure(comm, first, second, lambda: None)


def measure_clock(comm: Communicator, first: int, second: int) -> tuple[float, float]:
    """Seconds by which the second rank's clock is ahead of the first's, and how far that may be off.

    For the first rank; these two alone call this. The shortest of several questions counts: its answer was read about
    half-way between.
    """
    shortest, ahead = float("inf"), 0.0
    stamp = torch.zeros(1, dtype=torch.float64)
    for _ in range(_ROUNDS):
        asked = time.time()
        if comm.rank == first:
            comm.wait(comm.isend(stamp, second, _TAG))
            comm.wait(comm.irecv(stamp, second, _TAG))
        else:
            comm.wait(comm.irecv(stamp, first, _TAG))
            stamp[0] = time.time()
            comm.wait(comm.isend(stamp, first, _TAG))
        answered = time.time()
        if answered - asked < shortest:
            shortest, ahead = answered - asked, stamp.item() - (asked + answered) / 2
    return ahead, shortest / 2


def _measure(comm: Communicator, first: int, second: int, before: Callable[[], object]) -> tuple[float, float]:
    """Seconds of an empty message and bytes a second; `before` each round."""
    small = _ping_pong(comm, first, second, torch.zeros(8, dtype=torch.uint8), _ROUNDS, before)
    large = _ping_pong(comm, first, second, torch.zeros(_LARGE, dtype=torch.uint8), _LARGE_ROUNDS, before)
    return small, _LARGE / max(large - small, 1e-9)


def _ping_pong(
    comm: Communicator, first: int, second: int, message: torch.Tensor, rounds: int, before: Callable[[], object]
) -> float:
    """Seconds of one way."""

    def there_and_back() -> None:
        if comm.rank == first != second:
            comm.wait(comm.isend(message, second, _TAG))
            comm.wait(comm.irecv(message, second, _TAG))
        elif comm.rank == second != first:
            comm.wait(comm.irecv(message, first, _TAG))
            comm.wait(comm.isend(message, first, _TAG))

    return _least(there_and_back, rounds, before) / 2


def _least(work: Callable[[], object], rounds: int, before: Callable[[], object]) -> float:
    """The least seconds that the work took here."""
    least = float("inf")
    for _ in range(rounds):
        before()
        start = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - start)
    return least
