"""What a prefill strategy is given."""

from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange
from mpi_spp.mesh import Place
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import Shard
from mpi_spp.partition import Ranges
from mpi_spp.report.progress import Progress


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
    positions: list[Ranges]  # by rank: those that it computes
    cache: KVCache
    exchange: Exchange
    progress: Progress  # of the tokens that this rank has computed
