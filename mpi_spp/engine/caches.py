"""The caches of a rank: what the prefill fills, what the decode wants, and the exchange from one to the other."""

from dataclasses import dataclass

import torch

from mpi_spp.engine.communicators import Communicators
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange, Move
from mpi_spp.model.decoder import Stage
from mpi_spp.parallel.partition import Ranges
from mpi_spp.parallel.phase import Phase, held_by
from mpi_spp.parallel.rounds import Round, plan_rounds
from mpi_spp.strategies.assignment import Plan, Strategies


@dataclass
class Caches:
    """Makes them for the strategies of a run. `dtype`: int8, or None for that of the weights."""

    stage: Stage
    links: Communicators
    strategies: Strategies
    plan: Plan
    dtype: torch.dtype | None
    granularity: str
    most_bytes: int = 0  # at once, of one prompt

    def target(self, capacity: int, chunks: list[range]) -> KVCache:
        """An empty cache of what this rank needs in the decode, of so many positions; the prompt comes in `chunks`."""
        return self._new(self.plan.decode, self.plan.decode_positions(chunks), chunks[-1].stop, capacity)

    def source(self, target: KVCache, chunks: list[range]) -> KVCache:
        """What the prefill fills: the decode's own cache where it has room for all that the prefill makes here."""
        rank, plan = self.links.replica.rank, self.plan
        if plan.prefill.regions[rank].is_within(plan.decode.regions[rank]):
            return target
        source = self._new(plan.prefill, plan.prefill_positions(chunks), *[chunks[-1].stop] * 2)
        self.most_bytes = max(self.most_bytes, source.nbytes + target.nbytes)
        return source

    def new_exchange(self) -> Exchange:
        """For the rounds of all prompts."""
        return Exchange(self.links.kv, self.strategies.sync.MOVES, self.strategies.sync.exchange)

    def rounds(self, source: KVCache, target: KVCache, chunks: list[range]) -> tuple[Move, list[Round]]:
        """What a prompt in these chunks has to exchange, and when."""
        phase, target_regions = self.plan.prefill, self.plan.decode.regions
        rounds = []
        if phase.regions != target_regions:
            stages, made = [place.stage for place in phase.places], self.plan.prefill_positions(chunks)
            rounds = plan_rounds(self.granularity, phase.regions, stages, chunks, made)
        return Move(source, target, target_regions, self.plan.decode_positions(chunks), self.links.hosts), rounds

    def _new(self, phase: Phase, positions: list[Ranges], num_tokens: int, capacity: int) -> KVCache:
        rank = self.links.replica.rank
        region, held = phase.regions[rank], held_by(phase.places[rank], positions[rank], num_tokens)
        empty = self.links.shared if self.strategies.shares_memory else torch.empty
        cache = self.stage.new_cache(region.layers, held.room(capacity), self.dtype, region.heads, empty, held)
        self.most_bytes = max(self.most_bytes, cache.nbytes)
        return cache
