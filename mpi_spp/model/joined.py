"""Layers that a back end runs in one call, for all spans of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kernels.layer import FusedLayers, FusedSpan, Layer
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import Batch


@dataclass(frozen=True)
class Joined:
    """Consecutive layers, with the same key/value heads of each."""

    fused: FusedLayers
    numbers: range
    kv_heads: range

    def __call__(self, hidden: torch.Tensor, rotation: Rotation, batch: Batch) -> None:
        """Take hidden states through all of them, in place."""
        self.fused(hidden, rotation, spans_of(self.fused, self.numbers, self.kv_heads, batch))


def join(numbers: range, layers: Sequence[Layer]) -> Joined | None:
    """Some layers as one; None where a back end has no such call, or a layer has experts."""
    fused = [layer.fused for layer in layers if layer.fused is not None and layer.router is None]
    heads = {layer.heads.kv_heads for layer in layers if layer.heads is not None}
    if not layers or len(fused) < len(layers) or len(heads) > 1:
        return None
    together = fused[0].followed_by(fused[1:])
    return None if together is None else Joined(together, numbers, heads.pop())


def spans_of(fused: FusedLayers, numbers: range, kv_heads: range, batch: Batch) -> list[FusedSpan]:
    """The spans of a batch as a call for these layers wants them."""

    def places(cache: KVCache) -> Any:
        return cache.once(
            ("places", numbers, kv_heads),
            lambda: fused.places([cache.of_layer(number, kv_heads) for number in numbers]),
        )

    return [FusedSpan(len(span.rows), span.start, places(span.cache)) for span in batch.spans]
