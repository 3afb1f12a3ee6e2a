"""What a prefill strategy is given."""

from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange
from mpi_spp.model.decoder import Stage


@dataclass(frozen=True)
class PrefillJob:
    """One prompt, and who computes which part of it; all ranks agree on ids, chunks and spans."""

    stage: Stage
    comm: Communicator
    prompt_ids: torch.Tensor  # int64 [prompt_tokens]
    chunks: list[range]
    layer_spans: list[range]  # by rank
    cache: KVCache
    exchange: Exchange
