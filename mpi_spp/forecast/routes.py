"""What a sync strategy sends of every rank's part, and to whom: found by running its exchange with nothing to send."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[np.float64]]


class Traffic(NamedTuple):
    """[sources, ranks] each, in what `made` counts: all that is sent and received, and of it what stays on the host."""

    sent: Array
    received: Array
    sent_inside: Array
    received_inside: Array


def traffic_of(sync: ModuleType, made: Array, hosts: Any) -> Traffic:
    """Of a strategy that moves `Shared` rounds. `made` [sources, ranks]: how much is each rank's part.

    `hosts` [ranks] numbers each rank's host. A strategy may state its own `traffic(made, hosts)`, where to run its
    exchange for very many ranks would take too long.
    """
    if hasattr(sync, "traffic"):
        return Traffic(*sync.traffic(made, hosts))
    routes = routes_of(sync.exchange, made.shape[1])
    senders, receivers, owners = routes.senders, routes.receivers, routes.owners
    stays = hosts[senders] == hosts[receivers]
    weights = made[:, owners]
    return Traffic(
        _added(weights, senders, made.shape),
        _added(weights, receivers, made.shape),
        _added(weights * stays, senders, made.shape),
        _added(weights * stays, receivers, made.shape),
    )


def _added(weights: Array, ranks: Any, shape: tuple[int, ...]) -> Array:
    total = np.zeros(shape)
    for source, of_source in enumerate(weights):
        total[source] = np.bincount(ranks, of_source, shape[1])
    return total


@dataclass(frozen=True)
class Routes:
    """Each number of a sender, a receiver and the owner of a part: that part goes that way once.

    `in_steps`: whether some message waits for one before it.
    """

    senders: Any
    receivers: Any
    owners: Any
    in_steps: bool


@lru_cache(maxsize=64)
def routes_of(exchange: Callable[..., Iterator[object]], num_ranks: int) -> Routes:
    """Those of one round."""
    recorders = [_Recorder(rank, num_ranks) for rank in range(num_ranks)]
    for comm in recorders:
        for request in exchange(comm, _Parts(num_ranks)):
            comm.waited = comm.waited or request is _ARRIVAL
    routes = np.array([route for comm in recorders for route in comm.routes()], dtype=np.int64).reshape(-1, 3)
    senders, receivers, owners = routes.T
    return Routes(senders, receivers, owners, any(comm.in_steps for comm in recorders))


class _Parts:
    """In the place of `kv.exchange.Shared`: a row for each rank, which holds its number."""

    tag = 0

    def __init__(self, num_ranks: int) -> None:
        self.lengths, self.rows = [1] * num_ranks, torch.arange(num_ranks)[:, None]

    def part(self, rank: int) -> torch.Tensor:
        return self.rows[rank : rank + 1]


@dataclass
class _Recorder:
    """In the place of a communicator: notes whose parts this rank sends, and moves nothing."""

    rank: int
    size: int
    waited: bool = False  # for something that comes
    in_steps: bool = False
    _sent: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def next(self) -> int:
        return (self.rank + 1) % self.size

    @property
    def prev(self) -> int:
        return (self.rank - 1) % self.size

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.size - 1

    def isend(self, rows: torch.Tensor, dest: int, tag: int = 0) -> object:
        self.in_steps = self.in_steps or self.waited
        self._sent.append((dest, rows.flatten().tolist()))
        return _DEPARTURE

    def irecv(self, rows: torch.Tensor, source: int, tag: int = 0) -> object:
        return _ARRIVAL

    def iallgather(self, rows: torch.Tensor, lengths: Sequence[int]) -> object:
        self._sent += [(other, [self.rank]) for other in range(self.size) if other != self.rank]
        return _ARRIVAL

    def routes(self) -> Iterator[tuple[int, int, int]]:
        """Sender, receiver and owner of all that was sent."""
        return ((self.rank, dest, owner) for dest, owners in self._sent for owner in owners)


_ARRIVAL, _DEPARTURE = object(), object()
