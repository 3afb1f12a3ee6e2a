"""What a message costs between the ranks of a job: measured in a tenth of a second."""

import time
from collections.abc import Callable

import torch

from mpi_spp.comm.communicator import Communicator

_LARGE = 1 << 20
_ROUNDS, _LARGE_ROUNDS = 20, 4
_TAG = 77


def measure_link(comm: Communicator, other: int) -> tuple[float, float]:
    """Seconds of an empty message, and bytes a second, between rank 0 and another one. Collective.

    On rank 0. The least of several rounds counts: noise only adds.
    """
    return _measure(comm, 0, other, comm.barrier)


def measure_pair(comm: Communicator, first: int, second: int) -> tuple[float, float]:
    """The same between any two ranks, who alone call this. On the first."""
    return _measure(comm, first, second, lambda: None)


def measure_sums(comm: Communicator, hidden_size: int) -> tuple[float, float]:
    """Seconds of the all-reduce of one hidden state, and bytes a second of a large one. Collective.

    Each rank sends and receives twice what is not its own part: those are the bytes that count.
    """
    row, many = torch.zeros(hidden_size), torch.zeros(_LARGE // 4)
    small = _least(lambda: comm.sum_in_place(row), _ROUNDS, comm.barrier)
    large = _least(lambda: comm.sum_in_place(many), _LARGE_ROUNDS, comm.barrier)
    return small, 2 * _LARGE * (comm.size - 1) / comm.size / max(large - small, 1e-9)


def _measure(comm: Communicator, first: int, second: int, before: Callable[[], object]) -> tuple[float, float]:
    """Seconds of an empty message, and bytes a second; `before` each round."""
    small = _ping_pong(comm, first, second, torch.zeros(8, dtype=torch.uint8), _ROUNDS, before)
    large = _ping_pong(comm, first, second, torch.zeros(_LARGE, dtype=torch.uint8), _LARGE_ROUNDS, before)
    return small, _LARGE / max(large - small, 1e-9)


def _ping_pong(
    comm: Communicator, first: int, second: int, message: torch.Tensor, rounds: int, before: Callable[[], object]
) -> float:
    """Seconds of one way."""

    def there_and_back() -> None:
        if comm.rank == first:
            comm.wait(comm.isend(message, second, _TAG))
            comm.wait(comm.irecv(message, second, _TAG))
        elif comm.rank == second:
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
