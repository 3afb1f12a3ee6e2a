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
    small = _ping_pong(comm, torch.zeros(8, dtype=torch.uint8), _ROUNDS)
    large = _ping_pong(comm, torch.zeros(_LARGE, dtype=torch.uint8), _LARGE_ROUNDS)
    row = torch.zeros(hidden_size)
    return small, _LARGE / max(large - small, 1e-9), _least(lambda: comm.sum_in_place(row), _ROUNDS, comm.barrier)


def _ping_pong(comm: Communicator, message: torch.Tensor, rounds: int) -> float:
    """Seconds of one way."""
    last = comm.size - 1

    def there_and_back() -> None:
        if comm.rank == 0:
            comm.wait(comm.isend(message, last, _TAG))
            comm.wait(comm.irecv(message, last, _TAG))
        elif comm.rank == last:
            comm.wait(comm.irecv(message, 0, _TAG))
            comm.wait(comm.isend(message, 0, _TAG))

    return _least(there_and_back if last else lambda: None, rounds, comm.barrier) / 2


def _least(work: Callable[[], object], rounds: int, before: Callable[[], object]) -> float:
    """The least seconds that the work took here."""
    least = float("inf")
    for _ in range(rounds):
        before()
        start = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - start)
    return least
