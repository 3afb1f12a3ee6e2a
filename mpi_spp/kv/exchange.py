"""Runs the rounds of a KV sync beside the computation: packs, starts, moves on, unpacks."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.rounds import Round


@dataclass
class Shared:
    """What a strategy moves in one round: `rows` uint8 [sum(lengths), row], rank r's part being `part(r)`.

    At the start only the part of this rank is filled in; at the end all are. `tag` is the round's own.
    """

    rows: torch.Tensor
    lengths: list[int]
    tag: int

    def part(self, rank: int) -> torch.Tensor:
        """The rows of one rank, [lengths[rank], row]."""
        start = sum(self.lengths[:rank])
        return self.rows[start : start + self.lengths[rank]]


# A strategy starts transfers and yields each request that must be complete before it goes on. It ends when all parts
# are here and all sends are done. Between two steps the rank computes.
Strategy = Callable[[Communicator, Shared], Iterator[Request]]


class Exchange:
    """The rounds of one prefill, of which several may be under way."""

    def __init__(self, comm: Communicator, strategy: Strategy, cache: KVCache, rounds: list[Round]) -> None:
        self._comm, self._strategy, self._cache = comm, strategy, cache
        self._waiting = deque(enumerate(rounds)) if comm.size > 1 else deque()
        self._under_way: list[_UnderWay] = []

    def reached(self, tick: int, layers_done: int) -> None:
        """Start the rounds that are ready now, and move the earlier ones on."""
        while self._waiting and self._waiting[0][1].ready_at <= (tick, layers_done):
            self._start(*self._waiting.popleft())
        self.test()

    def test(self) -> bool:
        """Move all rounds on without waiting (MPI moves nothing by itself); whether none is under way."""
        self._under_way = [round_ for round_ in self._under_way if not round_.advance()]
        return not self._under_way

    def finish(self) -> None:
        """Return when every round is complete and unpacked."""
        assert not self._waiting, "the prefill ended before its last tick"
        self._comm.wait(self)

    def _start(self, tag: int, round_: Round) -> None:
        lengths = [len(block) for block in round_.blocks]
        size = (sum(lengths), len(self._cache.heads) * self._cache.position_bytes)
        rows = torch.empty(size, dtype=torch.uint8, device=self._cache.device)
        shared = Shared(rows, lengths, tag)
        mine = round_.blocks[self._comm.rank]
        self._cache.pack(mine.layers, self._cache.heads, mine.positions, shared.part(self._comm.rank))
        self._under_way.append(_UnderWay(self._strategy(self._comm, shared), lambda: self._unpack(round_, shared)))

    def _unpack(self, round_: Round, shared: Shared) -> None:
        for rank, block in enumerate(round_.blocks):
            if rank != self._comm.rank:
                self._cache.unpack(block.layers, self._cache.heads, block.positions, shared.part(rank))


class _UnderWay:
    """One round: a strategy between two of its steps."""

    def __init__(self, steps: Iterator[Request], unpack: Callable[[], None]) -> None:
        self._steps, self._unpack = steps, unpack
        self._pending: Request | None = None
        self._complete = False
        self.advance()

    def advance(self) -> bool:
        """Go as far as possible without waiting; whether the round is complete (the cache then holds it)."""
        while not self._complete and (self._pending is None or self._pending.test()):
            self._pending = next(self._steps, None)
            if self._pending is None:
                self._unpack()
                self._complete = True
        return self._complete
