"""Products in float32 of weights that have fewer bits, for CPUs that are slow in these or have no kernels for them.

Activations keep the dtype of the run, so such a rank exchanges with any other.
"""

import torch
import torch.nn.functional as F

from mpi_spp.kernels.attention import Attention, Heads, Rotation, attention, attention_part, first_visible
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.linear import Activation, Gated, Linear, PlainLinear
from mpi_spp.kernels.merge import Part
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import BLOCK, PANEL, QuantizedWeight, dequantize, widen

_BLOCK_BYTES = 4 << 20  # of widened weights at a time: they should stay in the CPU's caches


class Widened(Plain):
    """Weights become float32 when they are loaded: as fast as a model in float32, and as large."""

    def __init__(self, products: Plain) -> None:
        """`products`: the back end whose float32 products are used."""
        self._products = products

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        return InFloat32(self._products.linear(_float32(weight), _as_float32(bias)))

    def gated(self, weight: Weight, bias: torch.Tensor | None, activation: Activation, size: int) -> Gated:
        if isinstance(weight, QuantizedWeight):
            blocks = dequantize(weight).unflatten(0, (-1, 2, BLOCK)).transpose(0, 1)  # 16 of gate, 16 of up in turn
            weight = blocks.flatten(1, 2)[:, :size].flatten(0, 1)
        return WidenedGated(self._products.linear(_float32(weight), _as_float32(bias)), activation)

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> Attention:
        return WidenedAttention(heads, q_norm, k_norm)


class Blockwise(Plain):
    """Weights keep their bits, and are widened block by block for every product: slower, and never larger."""

    def __init__(self) -> None:
        self._scratch = Scratch()

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        if isinstance(weight, QuantizedWeight):
            return InFloat32(BlocksOfCodes(weight, _as_float32(bias), self._scratch))
        return InFloat32(Blocks(weight, _as_float32(bias), self._scratch))

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> Attention:
        return WidenedAttention(heads, q_norm, k_norm)


class InFloat32:
    """A float32 product for x of any floating dtype."""

    def __init__(self, product: Linear) -> None:
        self._product = product
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x.float()).to(x.dtype)

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x.float())

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        self._product.add_to(total, x.float())


class WidenedGated:
    """activation(gate) * up in float32, rounded once to the dtype of x."""

    def __init__(self, product: Linear, activation: Activation) -> None:
        self._product, self._activation = product, activation
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._product(x.float()).chunk(2, dim=-1)
        return self._activation(gate).mul_(up).to(x.dtype)


class Scratch:
    """One tensor of float32 for the widened blocks of all products of a stage, made when it is first needed."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def like(self, *shape: int) -> torch.Tensor:
        """Return an uninitialised tensor of this shape, which the next call overwrites."""
        count = 1
        for size in shape:
            count *= size
        if self._numbers.numel() < count:
            self._numbers = torch.empty(count)
        return self._numbers[:count].view(shape)


class Blocks(PlainLinear):
    """A product with weights [out_features, in_features] of 16 bits; x is float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, scratch: Scratch) -> None:
        super().__init__(weight, bias)
        self._scratch = scratch
        self._rows = max(1, _BLOCK_BYTES // (4 * weight.shape[1]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for block in self._weight.split(self._rows):
            outputs.append(torch.mm(x, self._scratch.like(*block.shape).copy_(block).t()))
        y = torch.cat(outputs, dim=1)
        return y if self._bias is None else y.add_(self._bias)


class BlocksOfCodes(PlainLinear):
    """The same with quantised weights, whose numbers stay in the order of their codes: [blocks, inputs, 16 outputs]."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None, scratch: Scratch) -> None:
        self._quantized, self._bias, self._scratch = weight, bias, scratch
        self.nbytes = weight.data.nbytes
        self._panels = max(1, _BLOCK_BYTES // (4 * PANEL * weight.data.shape[2] * weight.group))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._quantized
        x = F.pad(x, (0, weight.data.shape[2] * weight.group - weight.in_features))
        parts = [self._product(x, data) for data in weight.data.split(self._panels)]
        y = torch.cat(parts, dim=1)[:, : weight.out_features]
        return y if self._bias is None else y + self._bias

    def _product(self, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """Return [rows, outputs] for x [rows, inputs], of some panels [panels, 2, groups, bytes]."""
        weight = self._quantized
        numbers = widen(data, weight.bits, weight.group, self._scratch.like)  # [blocks, inputs, 16]
        outputs = torch.matmul(x, numbers)  # [blocks, rows, 16]
        return outputs.transpose(0, 1).flatten(1)


class WidenedAttention(Attention):
    """Attention in float32 over a cache of any floating dtype."""

    def __call__(
        self, qkv: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> torch.Tensor:
        queries = self.store(qkv, rotation, cache, start)
        keys, values = cache.read(first_visible(start, window), start + len(qkv), torch.float32)
        return attention(queries.float(), keys.float(), values.float(), window).to(qkv.dtype)

    def part(self, queries: torch.Tensor, cache: LayerCache, slots: range, ahead: int, window: int | None) -> Part:
        keys, values = cache.read(slots.start, slots.stop, torch.float32)
        return attention_part(queries.float(), keys.float(), values.float(), ahead, window)


def _float32(weight: Weight) -> torch.Tensor:
    return dequantize(weight).contiguous() if isinstance(weight, QuantizedWeight) else weight.float()


def _as_float32(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()
