"""Runs the rounds of a KV sync beside the computation: packs, starts, moves on, unpacks."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.operation import Operation
from mpi_spp.comm.requests import Request
from mpi_spp.comm.shared import Hosts
from mpi_spp.kv.cache import KVCache
from mpi_spp.parallel.layout import Region
from mpi_spp.parallel.partition import Ranges
from mpi_spp.parallel.rounds import Block, Round
from mpi_spp.system.timed import timed


@dataclass(frozen=True)
class Move:
    """Between what a round takes its blocks out of, and puts them into: caches of this rank, regions of all ranks.

    `positions`: by rank, those of the prompt that it wants.
    """

    source: KVCache
    target: KVCache
    regions: Sequence[Region]
    positions: Sequence[Ranges]
    hosts: Hosts | None = None  # of the ranks, where caches are shared by those of a host


class Shared:
    """Every rank's block goes to all: `rows` uint8 [sum(lengths), row], rank r's part being `part(r)`.

    At the start only the part of this rank is filled in; at the end all are. `tag` is the round's own.
    """

    def __init__(self, round_: Round, move: Move, rank: int, tag: int) -> None:
        self._round, self._move, self._rank = round_, move, rank
        self.lengths, self.tag = [len(block) for block in round_.blocks], tag
        self.rows = room_for(move.source, sum(self.lengths))
        pack_block(move.source, round_.blocks[rank], self.part(rank))

    def part(self, rank: int) -> torch.Tensor:
        """The rows of one rank, [lengths[rank], row]."""
        start = sum(self.lengths[:rank])
        return self.rows[start : start + self.lengths[rank]]

    def unpack(self) -> None:
        """Put what has come where it belongs."""
        for rank, block in enumerate(self._round.blocks):
            if rank != self._rank or self._move.target is not self._move.source:
                unpack_block(self._move.target, block, self.part(rank))


class Parcels:
    """Every rank gets what belongs into its region: `outgoing` uint8 [sum(out_lengths), row] by receiver, and
    `incoming` [sum(in_lengths), row] by sender, both in rank order. A rank has a parcel for itself where it keeps two
    caches. `tag` is the round's own.
    """

    def __init__(self, round_: Round, move: Move, rank: int, tag: int) -> None:
        wanted = list(zip(move.regions, move.positions, strict=True))
        self._mine = [round_.blocks[rank].within(*of_rank) for of_rank in wanted]
        self._coming = [block.within(*wanted[rank]) for block in round_.blocks]
        if move.source is move.target:
            self._mine[rank] = self._coming[rank] = _NOTHING
        self._prepare(move, tag)

    def _prepare(self, move: Move, tag: int) -> None:
        """Room for what comes, and what goes put side by side."""
        self._target, self.tag = move.target, tag
        self.out_lengths, self.in_lengths = list(map(len, self._mine)), list(map(len, self._coming))
        self.outgoing = room_for(move.source, sum(self.out_lengths))
        self.incoming = room_for(move.source, sum(self.in_lengths))
        for block, rows in zip(self._mine, self.outgoing.split(self.out_lengths), strict=True):
            pack_block(move.source, block, rows)

    def unpack(self) -> None:
        """Put what has come where it belongs."""
        for block, rows in zip(self._coming, self.incoming.split(self.in_lengths), strict=True):
            unpack_block(self._target, block, rows)


class HostParcels(Parcels):
    """Every host gets what was made on others, by one of its ranks: `first_of` tells the hosts of ranks apart."""

    def __init__(self, round_: Round, move: Move, rank: int, tag: int) -> None:
        assert move.hosts is not None
        self.first_of = hosts = move.hosts.first_of
        ranks = range(len(move.regions))
        self._mine = [round_.blocks[rank] if takes_for_host(hosts, rank, other) else _NOTHING for other in ranks]
        self._coming = [round_.blocks[other] if takes_for_host(hosts, other, rank) else _NOTHING for other in ranks]
        self._prepare(move, tag)


def takes_for_host(hosts: Sequence[object], sender: int, receiver: int) -> bool:
    """Whether this receiver takes what the sender has for its host: the ranks of a host take turns.

    `hosts`: by rank, equal for those of one host.
    """
    there = [rank for rank, host in enumerate(hosts) if host == hosts[receiver]]
    return hosts[sender] != hosts[receiver] and there[sender % len(there)] == receiver


_NOTHING = Block(range(0), range(0), ())

# A strategy starts transfers and yields each request that must be complete before it goes on. It ends when everything
# is here and all sends are done. Between two steps the rank computes. What it moves is its module's MOVES.
Strategy = Callable[[Communicator, Any], Iterator[Request]]


def _by_range(block: Block, rows: torch.Tensor) -> Iterator[tuple[range, torch.Tensor]]:
    """The ranges of a block's positions, each with its part of the block's rows."""
    if len(block):
        heads = len(block.layers) * len(block.heads)
        yield from zip(block.positions, rows.split([heads * len(one) for one in block.positions]), strict=True)


def room_for(cache: KVCache, count: int) -> torch.Tensor:
    """Uninitialised rows for so many positions of heads, as `KVCache.pack` fills them."""
    return torch.empty((count, cache.position_bytes), dtype=torch.uint8, device=cache.device)


def pack_block(cache: KVCache, block: Block, rows: torch.Tensor) -> None:
    """Copy a block out of a cache, one range of its positions behind the other."""
    for positions, part in _by_range(block, rows):
        cache.pack(block.layers, block.heads, positions, part)


def unpack_block(cache: KVCache, block: Block, rows: torch.Tensor) -> None:
    """Copy it to where it belongs in another cache."""
    for positions, part in _by_range(block, rows):
        cache.unpack(block.layers, block.heads, positions, part)


class Exchange:
    """The rounds of all prompts that are under way, of which several may be.

    Every rank starts them in the same order, as MPI's collective calls want it: by the tick and layer after which they
    are ready, and of those that are ready together the earlier prompt's first.
    """

    def __init__(self, comm: Communicator, moves: type[Shared] | type[Parcels], strategy: Strategy) -> None:
        """`moves`: in which form the strategy wants a round."""
        self._comm, self._moves, self._strategy = comm, moves, strategy
        self._tags = itertools.count()
        self._waiting: list[_Ready] = []
        self._under_way: list[_UnderWay] = []

    def add(self, move: Move, rounds: Sequence[Round], first_tick: int) -> "PromptSync":
        """Let the rounds of a prompt whose first chunk enters the first stage in a tick wait for their time."""
        sync = PromptSync(self, self._comm)
        if self._comm.size > 1:
            ready = [_Ready((first_tick + one.ready_at[0], one.ready_at[1]), one, move, sync) for one in rounds]
            self._waiting = sorted([*self._waiting, *ready], key=lambda one: one.ready_at)
            sync.left = len(ready)
        return sync

    def reached(self, tick: int, layers_done: int) -> None:
        """Start the rounds that are ready now, move the earlier ones on, and show the others that this rank works."""
        while self._waiting and self._waiting[0].ready_at <= (tick, layers_done):
            self._start(self._waiting.pop(0))
        self.test()
        works()

    def test(self) -> None:
        """Move all rounds on without waiting: MPI moves nothing by itself."""
        self._under_way = [round_ for round_ in self._under_way if not round_.advance()]

    def operation_of(self, sync: "PromptSync") -> Operation:
        """Of a prompt's first round that is under way, what must be complete next."""
        return next(one.operation for one in self._under_way if one.sync is sync)

    def _start(self, ready: "_Ready") -> None:
        tag, sync = next(self._tags), ready.sync
        with timed("pack", tag):
            packed = self._moves(ready.round, ready.move, self._comm.rank, tag)

        def unpack() -> None:
            with timed("unpack", tag):
                packed.unpack()
            sync.left -= 1

        self._under_way.append(_UnderWay(self._strategy(self._comm, packed), unpack, sync))


class PromptSync:
    """The rounds of one prompt; `left` are not complete."""

    def __init__(self, exchange: Exchange, comm: Communicator) -> None:
        self._exchange, self._comm, self.left = exchange, comm, 0

    @property
    def operation(self) -> Operation:
        """What must be complete next, once all rounds have been started."""
        return self._exchange.operation_of(self)

    def test(self) -> bool:
        """Move all rounds on without waiting; whether those of this prompt are complete."""
        self._exchange.test()
        return self.left == 0

    def finish(self) -> None:
        """Return when every round of the prompt is complete and unpacked; all have been started."""
        self._comm.wait(self)


@dataclass(frozen=True)
class _Ready:
    """A round that waits for its time."""

    ready_at: tuple[int, int]
    round: Round
    move: Move
    sync: PromptSync


class _UnderWay:
    """One round: a strategy between two of its steps."""

    def __init__(self, steps: Iterator[Request], unpack: Callable[[], None], sync: PromptSync) -> None:
        self._steps, self._unpack, self.sync = steps, unpack, sync
        self._pending: Request | None = None
        self._complete = False
        self.advance()

    @property
    def operation(self) -> Operation:
        """What must be complete before it goes on."""
        assert self._pending is not None, "a round that is not complete waits for something"
        return self._pending.operation

    def advance(self) -> bool:
        """Go as far as possible without waiting; whether the round is complete (the cache then holds it)."""
        while not self._complete and (self._pending is None or self._pending.test()):
            self._pending = next(self._steps, None)
            if self._pending is None:
                self._unpack()
                self._complete = True
        return self._complete
