"""Keys and values that go round the ring of ranks while queries stay where they are."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.kernels.attention import first_visible
from mpi_spp.kernels.merge import merge, nothing
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import pack_block, room_for, unpack_block
from mpi_spp.model.batch import in_spans
from mpi_spp.model.shard import Attending
from mpi_spp.parallel.layout import Held
from mpi_spp.parallel.partition import within
from mpi_spp.parallel.rounds import Block
from mpi_spp.strategies.prefill._chunks import forward, whole
from mpi_spp.strategies.prefill._job import PrefillJob, Prompt

_SPAN = 512  # tokens that attend at once: between two of them transfers move on


def round_the_ring(job: PrefillJob, prompt: Prompt, number: int, tick: int, hidden: torch.Tensor) -> torch.Tensor:
    """As `whole`, where other ranks have other parts of the positions."""
    if job.place.num_parts == 1:
        return whole(job, prompt, number, tick, hidden)
    mine, ring = job.in_part(prompt, number), Ring(job, prompt, prompt.chunks[number])
    if not mine:  # of a chunk that has fewer tokens than there are parts
        for layer in job.layers:
            for heads in _heads_of(job, layer):
                ring.pass_on(layer, heads)
            job.stage.serve(layer, job.shard)
            job.exchange.reached(tick, layer - job.layers.start + 1)
        return hidden
    batch = in_spans(mine, prompt.cache, len(prompt), _SPAN)
    return forward(job, number, tick, hidden, batch, replace(job.shard, attend=ring))


def _heads_of(job: PrefillJob, layer: int) -> list[range]:
    """The key/value heads that this rank attends with, one share of the layer after another."""
    exchange, weights = job.shard.exchange, job.stage.weights.layers[layer]
    if exchange is not None:
        return [exchange.heads.kv_heads] if exchange.heads.query_heads else []
    return [part.kv_heads for share in job.shard.shares if (part := weights[share].heads) is not None]


class Ring:
    """Attention of a chunk's tokens over all positions up to it, of which each part's ranks hold some.

    In each of P steps a rank attends over one rank's keys and values while it passes them on to the next one.
    """

    def __init__(self, job: PrefillJob, prompt: Prompt, chunk: range) -> None:
        self._job, self._comm, self._cache, self._stop = job, job.parts, prompt.cache, chunk.stop
        self._known = [within(of_part, [range(chunk.stop)]) for of_part in prompt.positions]
        self._pending: list[Request] = []

    def __call__(self, what: Attending) -> torch.Tensor:
        """See `Attend`."""
        cache, attention, heads, qkv = self._cache, what.attention, what.attention.heads, what.qkv
        own, spans = cache.of_layer(what.layer, what.kv_heads), what.batch.spans
        queries = [
            attention.store(span.of(qkv), span.angles(what.rotation), own, cache.held.slot(span.start))
            for span in spans
        ]
        parts = [nothing(len(span.rows), heads.num_heads, heads.size, device=qkv.device) for span in spans]
        for passing in self._caches(what.layer, what.kv_heads):
            keys = passing.of_layer(what.layer, what.kv_heads)
            for number, span in enumerate(spans):
                for piece in _pieces(passing.held, span.positions, what.window):
                    more = attention.part(queries[number], keys, *piece)
                    self._move_on()
                    parts[number] = merge(parts[number], more)
        return torch.cat([outputs.to(qkv.dtype) for outputs, _ in parts]).view(len(qkv), -1)

    def pass_on(self, layer: int, kv_heads: range) -> None:
        """Take part without any token."""
        for _ in self._caches(layer, kv_heads):
            pass

    def _caches(self, layer: int, heads: range) -> Iterator[KVCache]:
        """What each rank holds of a layer, this one's first: always the same cache, filled anew."""
        comm, cache = self._comm, self._cache
        order = [(comm.rank - step) % comm.size for step in range(comm.size)]
        blocks = [Block(range(layer, layer + 1), heads, self._known[owner]) for owner in order]
        rows = room_for(cache, len(blocks[0]))
        pack_block(cache, blocks[0], rows)
        for block, coming in itertools.pairwise(blocks):
            arriving = room_for(cache, len(coming))
            self._exchange(rows, arriving)
            yield self._passed(layer, block, rows)
            for request in self._pending:
                comm.wait(request, meanwhile=self._move_on)
            self._pending, rows = [], arriving
        yield self._passed(layer, blocks[-1], rows)

    def _exchange(self, leaving: torch.Tensor, arriving: torch.Tensor) -> None:
        """Start both; a rank that holds nothing sends nothing."""
        comm = self._comm
        self._pending = [comm.irecv(arriving, comm.prev)] if len(arriving) else []
        self._pending += [comm.isend(leaving, comm.next)] if len(leaving) else []

    def _passed(self, layer: int, block: Block, rows: torch.Tensor) -> KVCache:
        self._passing.layers, self._passing.held = range(layer, layer + 1), Held(block.positions, self._stop)
        unpack_block(self._passing, block, rows)
        return self._passing

    @cached_property
    def _passing(self) -> KVCache:
        """Room for one layer of the most that any rank holds."""
        most, cache = max(sum(map(len, of_rank)) for of_rank in self._known), self._cache
        return self._job.stage.new_cache(range(1), most, cache.values.dtype, cache.heads)

    def _move_on(self) -> None:
        """MPI moves nothing by itself."""
        self._job.exchange.test()
        for request in self._pending:
            request.test()


def _pieces(held: Held, queries: range, window: int | None) -> Iterator[tuple[range, int, int | None]]:
    """What queries see of the positions that are held, in as few pieces as can be: slots, and as `part` wants them.

    Slots in which all queries see all need not lie side by side in the sequence.
    """
    seen_by_all = min(queries.start, first_visible(queries.stop - 1, window))
    for edge in within(held.ranges, [range(first_visible(queries.start, window), seen_by_all)]):
        yield held.slots(edge), queries.start - edge.start, window
    before = held.slots(range(seen_by_all, queries.start))
    if len(before):
        yield before, len(before) - 1, None
    for own in within(held.ranges, [queries]):
        yield held.slots(own), queries.start - own.start, window
