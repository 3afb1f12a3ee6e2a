"""Which weight, or which layer's keys, are the first that are no finite numbers: what to name when scores are none."""

import math
from collections.abc import Iterator, Sequence

import torch

from mpi_spp.errors import UserError
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.products import EMBEDDING, HEAD, NORM, layer_shapes


def weights_in_order(config: ModelConfig) -> list[str]:
    """The names of all tensors, in the order in which a token meets them."""
    layers = (name for layer in range(config.num_hidden_layers) for name in layer_shapes(config, layer))
    return [EMBEDDING, *layers, NORM, HEAD]


def first_bad_weight(checkpoint: Checkpoint, names: Sequence[str], dtype: torch.dtype) -> Iterator[str | None]:
    """Look at one tensor after another; yield what is wrong with it, or None, and end behind the first bad one."""
    for name in names:
        problem = weight_problem(checkpoint, name, dtype)
        checkpoint.release()
        yield problem
        if problem is not None:
            return


def weight_problem(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> str | None:
    """What is wrong with a tensor for a run in this dtype; None: nothing, or one of two tied ones is not there."""
    if not checkpoint.has(name):
        return None
    lowest, highest = (value.item() for value in checkpoint.read(name).aminmax())
    if not math.isfinite(lowest) or not math.isfinite(highest):
        return f"{name} holds {highest if math.isfinite(lowest) else lowest}; get the model again"
    largest, limit = max(abs(lowest), abs(highest)), torch.finfo(dtype).max
    if largest > limit:
        ends = f"{str(dtype).removeprefix('torch.')} ends at {limit:.4g}"
        return f"{name} holds {largest:.4g}, but {ends}; take another --dtype"
    return None


def first_bad_layer(cache: KVCache, length: int) -> int | None:
    """The first layer of a cache with `length` positions of whose keys or values some are no finite numbers."""
    slots = cache.held.slot(length)
    for layer in cache.layers:
        parts = cache.of_layer(layer).read(0, slots, torch.float32)
        if not all(part.isfinite().all() for part in parts):
            return layer
    return None


def finite(weight: torch.Tensor, name: str) -> torch.Tensor:
    """The same; codes would hide a NaN, so it is refused before. Raises UserError."""
    if not all(value.isfinite() for value in weight.aminmax()):
        raise UserError(f"{name} holds nan or inf, of which no codes can be made; get the model again")
    return weight
