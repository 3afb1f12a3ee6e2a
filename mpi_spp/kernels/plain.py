"""The back ends that torch brings along. A back end makes a layer's operations from its weights."""

import torch

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.layer import FusedLayer, Layer
from mpi_spp.kernels.linear import Activation, Gated, GatedLinear, Linear, PackedLinear, PlainLinear
from mpi_spp.kernels.norm import RMSNorm


class Plain:
    """torch's own operations: every device and dtype."""

    rotation_dtype: torch.dtype | None = None  # of cosines and sines; None: that of the weights

    def norm(self, weight: torch.Tensor, eps: float) -> RMSNorm:
        """RMS normalisation with this weight [size]."""
        return RMSNorm(weight, eps)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """Products with `weight` [out_features, in_features]."""
        return PlainLinear(weight, bias)

    def gated(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> Gated:
        """activation(gate) * up with the rows of gate and up in `weight` [2 * intermediate_size, in_features]."""
        return GatedLinear(self.linear(weight, bias), activation)

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> Attention:
        """Attention of heads that are normalised before their rotation, or not."""
        return Attention(heads, q_norm, k_norm)

    def fused(self, layer: Layer) -> FusedLayer | None:
        """The whole layer as one call, for the rows of one sequence; None where there is none."""
        return None


class Packed(Plain):
    """The same with weights that oneDNN has laid out for this CPU."""

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return PackedLinear(weight, bias)
