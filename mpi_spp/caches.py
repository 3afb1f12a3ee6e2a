"""The caches of a rank: what the prefill fills, what the decode wants, and the exchange from one to the other."""

from dataclasses import dataclass

import torch

from mpi_spp.connections import Connections
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange, Move
from mpi_spp.kv.rounds import plan_rounds
from mpi_spp.model.decoder import Stage
from mpi_spp.phase import Phase
from mpi_spp.strategies import Strategies


@dataclass
class Caches:
    """Makes them for the strategies of a run. `dtype`: int8, or None for that of the weights."""

    stage: Stage
    links: Connections
    strategies: Strategies
    prefill: Phase
    decode: Phase
    dtype: torch.dtype | None
    granularity: str
    most_bytes: int = 0  # at once, of one prompt

    def target(self, capacity: int) -> KVCache:
        """An empty cache for so many positions of what this rank needs in the decode."""
        return self._new(self.decode, capacity)

    def source(self, target: KVCache, num_tokens: int) -> KVCache:
        """What the prefill fills: the decode's own cache where it has room for all that the prefill makes here."""
        rank = self.links.replica.rank
        if self.prefill.regions[rank].is_within(self.decode.regions[rank]):
            return target
        source = self._new(self.prefill, num_tokens)
        self.most_bytes = max(self.most_bytes, source.nbytes + target.nbytes)
        return source

    def exchange(self, source: KVCache, target: KVCache, chunks: list[range]) -> Exchange:
        """The rounds of one prefill in these chunks."""
        phase, sync = self.prefill, self.strategies.sync
        stages = [place.stage for place in phase.places]
        rounds = plan_rounds(self.granularity, phase.regions, stages, chunks)
        if phase.regions == self.decode.regions:
            rounds = []
        move = Move(source, target, self.decode.regions, self.links.hosts)
        return Exchange(self.links.kv, sync.MOVES, sync.exchange, move, rounds)

    def _new(self, phase: Phase, capacity: int) -> KVCache:
        region = phase.regions[self.links.replica.rank]
        empty = self.links.shared if self.strategies.shares_memory else torch.empty
        cache = self.stage.new_cache(region.layers, capacity, self.dtype, region.heads, empty)
        self.most_bytes = max(self.most_bytes, cache.nbytes)
        return cache
