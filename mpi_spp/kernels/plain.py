"""The back ends that torch brings along. A back end makes a layer's operations from its weights."""

import torch

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.cache import COLUMNS, KeyLayout
from mpi_spp.kernels.layer import FusedLayers, Layer
from mpi_spp.kernels.linear import Activation, ExactLinear, Gated, GatedLinear, Linear, PackedLinear, PlainLinear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.quantized import AlternatingGated, QuantizedLinear, QuantizedWeight, alternating

Weight = torch.Tensor | QuantizedWeight


class Plain:
    """torch's own operations: every device and dtype."""

    rotation_dtype: torch.dtype | None = None  # of cosines and sines; None: that of the weights
    in_one_call = False  # whether `fused` gives anything
    key_layout: KeyLayout = COLUMNS  # of the caches that its attention takes

    def norm(self, weight: torch.Tensor, eps: float) -> RMSNorm:
        """RMS normalisation with this weight [size]."""
        return RMSNorm(weight, eps)

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        """Products with `weight` [out_features, in_features]."""
        if isinstance(weight, QuantizedWeight):
            return QuantizedLinear(weight, bias)
        return PlainLinear(weight, bias)

    def exact(self, weight: torch.Tensor) -> Linear:
        """The same for few outputs that decide over much; its `to_float32` rounds no product before the sum."""
        return ExactLinear(weight)

    def gated(self, weight: Weight, bias: torch.Tensor | None, activation: Activation, size: int) -> Gated:
        """activation(gate) * up with the rows of gate and up in `weight` [2 * size, in_features].

        A quantised weight has them `alternating`; the bias has not.
        """
        if isinstance(weight, QuantizedWeight):
            product = self.linear(weight, None if bias is None else alternating(bias))
            return AlternatingGated(product, activation, size)
        return GatedLinear(self.linear(weight, bias), activation)

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> Attention:
        """Attention of heads that are normalised before their rotation, or not."""
        return Attention(heads, q_norm, k_norm)

    def fused(self, layer: Layer) -> FusedLayers | None:
        """The whole layer as one call, for any rows; None where there is none."""
        return None


class Packed(Plain):
    """The same with weights that oneDNN has laid out for this CPU."""

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        if isinstance(weight, QuantizedWeight):
            return super().linear(weight, bias)
        return PackedLinear(weight, bias)
