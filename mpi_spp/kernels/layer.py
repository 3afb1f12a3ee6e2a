"""The operations of one layer, and the call that runs them all at once where a back end has one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mpi_spp.kernels.attention import Attention, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.linear import Gated, Linear
from mpi_spp.kernels.norm import RMSNorm

# (hidden [tokens, hidden_size] in place, rotation, cache, start, window), the last three as Attention has them
FusedLayer = Callable[[torch.Tensor, Rotation, LayerCache, int, int | None], None]


@dataclass
class Layer:
    """What a layer does, in the order in which it does it; products with the same input are one."""

    input_norm: RMSNorm
    qkv: Linear
    attention: Attention
    output: Linear
    mlp_norm: RMSNorm
    gate_up: Gated
    down: Linear
    fused: FusedLayer | None = None

    @property
    def nbytes(self) -> int:
        """Of the products' weights, which are all but a thousandth."""
        return self.qkv.nbytes + self.output.nbytes + self.gate_up.nbytes + self.down.nbytes
