"""What a prefill strategy is given."""

from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.mesh import Place
from mpi_spp.parallel.partition import Ranges, rows_of, within
from mpi_spp.system.progress import Progress


@dataclass(frozen=True)
class PrefillJob:
    """One prompt, and which part of it this rank computes; all ranks agree on ids, chunks and positions."""

    stage: Stage
    comm: Communicator
    place: Place
    layers: range
    shard: Shard
    prompt_ids: torch.Tensor  # int64 [prompt_tokens]
    chunks: list[range]
    positions: list[Ranges]  # by part: those that its ranks compute
    parts: Communicator  # the ranks that differ from this one in their part alone
    cache: KVCache
    exchange: Exchange
    progress: Progress  # of the tokens that this rank has computed

    def in_part(self, number: int) -> Ranges:
        """The positions of a chunk that this rank's part has."""
        return within(self.positions[self.place.part], [self.chunks[number]])

    def own(self, number: int) -> Ranges:
        """Those whose hidden states this rank has: a part's tokens may be split once more."""
        ranges, exchange = self.in_part(number), self.shard.exchange
        return ranges if exchange is None else rows_of(ranges, exchange.rows(sum(map(len, ranges))))
