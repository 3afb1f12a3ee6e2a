"""Replicated decode: every rank computes every layer on its own whole cache, so no keys or values travel."""

import torch

from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.layout import WHOLE
from mpi_spp.model.batch import one_span
from mpi_spp.model.decoder import Stage

WANTS = WHOLE


def step(stage: Stage, cache: KVCache, token_ids: torch.Tensor, position: int) -> torch.Tensor:
    """Hidden states [tokens, hidden_size] of tokens [tokens] that stand from `position` on; the cache grows by them."""
    batch = one_span(range(position, position + len(token_ids)), cache, position + len(token_ids))
    return stage.forward(stage.embed(token_ids), batch, cache.layers)
