"""The native kernels as a back end."""

import ctypes
from ctypes import byref
from typing import Self

import torch

from mpi_spp.kernels.attention import Attention, Heads, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.layer import FusedLayers, FusedSpan, Layer
from mpi_spp.kernels.linear import Activation, Gated, Linear
from mpi_spp.kernels.merge import Part
from mpi_spp.kernels.native.cache import KeyPanels, batch_of, pointers_to
from mpi_spp.kernels.native.layer import EVERYTHING, NativeLayers, shape_of
from mpi_spp.kernels.native.library import compiler_of
from mpi_spp.kernels.native.linear import NativeLinear, NativeSiluMul, OddLinear, panels_of
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import QuantizedWeight, alternating


class Native(Plain):
    """Each row comes out the same, to the bit, whatever other rows are computed with it."""

    rotation_dtype = torch.float32
    in_one_call = True

    def __init__(self, library: ctypes.CDLL, activations: str = "exact", dtype: torch.dtype = torch.bfloat16) -> None:
        """`dtype`: that the library was made for, of all that is no code or sum.

        `activations`: of products with weights of 4 bits; int8: blocks of 32 inputs as codes with a scale.
        """
        self._library, self.activations, self.dtype = library, activations, dtype
        self.compiler = compiler_of(library)
        self.key_layout = KeyPanels(library)

    def norm(self, weight: torch.Tensor, eps: float) -> "NativeNorm":
        return NativeNorm(self._library, weight, eps, self.dtype)

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        if isinstance(weight, QuantizedWeight):
            return self._quantized(NativeLinear, weight, bias, weight.out_features)
        if weight.shape[1] % 2:  # inputs are taken in pairs
            return super().linear(weight, bias)
        panels = panels_of(self._library, weight)
        return NativeLinear(self._library, panels, bias, (weight.shape[0], weight.shape[1]), self.dtype)

    def exact(self, weight: torch.Tensor) -> Linear:
        return self.linear(weight.to(self.dtype), None)  # sums are float32

    def gated(self, weight: Weight, bias: torch.Tensor | None, activation: Activation, size: int) -> Gated:
        if activation is not torch.nn.functional.silu:
            return super().gated(weight, bias, activation, size)
        alternating_bias = None if bias is None else alternating(bias)
        if isinstance(weight, QuantizedWeight):
            return self._quantized(NativeSiluMul, weight, alternating_bias, 2 * size)
        if weight.shape[1] % 2:
            return super().gated(weight, bias, activation, size)
        panels = panels_of(self._library, weight, alternate=True)
        return NativeSiluMul(self._library, panels, alternating_bias, (2 * size, weight.shape[1]), self.dtype)

    def _quantized(
        self, kind: type[NativeLinear], weight: QuantizedWeight, bias: torch.Tensor | None, out_features: int
    ) -> NativeLinear | OddLinear:
        shape = (out_features, weight.in_features + weight.in_features % 2)
        activations = 8 if self.activations == "int8" and weight.bits == 4 else 16
        product = kind(self._library, weight.data, bias, shape, self.dtype, weight.bits, weight.group, activations)
        return OddLinear(product) if weight.in_features % 2 else product

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> "NativeAttention":
        return NativeAttention(self._library, heads, q_norm, k_norm, self.dtype)

    def fused(self, layer: Layer) -> FusedLayers | None:
        heads, mlp = layer.heads, layer.mlp
        if heads is None or heads.norm is not None or (mlp is None and layer.router is None):
            return None
        products = (heads.qkv, heads.output, *((mlp.gate_up, mlp.down) if mlp is not None else ()))
        if not all(isinstance(product, NativeLinear) for product in products):
            return None
        return NativeLayers.of(self._library, layer, heads, mlp)


class NativeNorm(RMSNorm):
    """RMSNorm of float32 rows in one pass."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> None:
        super().__init__(weight, eps)
        self._norm, self._dtype = library.rms_norm, dtype

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x, y = x.contiguous(), torch.empty(x.shape, dtype=self._dtype)  # a copy must live as long as the call
        self._norm(x.data_ptr(), self.weight.data_ptr(), y.data_ptr(), *x.shape, self.eps)
        return y


class NativeAttention(Attention):
    """Rotation and the cache's growth in one pass, attention over it in another."""

    def __init__(
        self,
        library: ctypes.CDLL,
        heads: Heads,
        q_norm: RMSNorm | None,
        k_norm: RMSNorm | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(heads, q_norm, k_norm)
        self._dtype = dtype
        self._rotate, self._attend, self._attend_part = library.rotate_and_store, library.attend, library.attend_part
        self.shape = shape_of(heads, q_norm, k_norm)

    def with_heads(self, num_heads: int, num_groups: int) -> Self:
        other = super().with_heads(num_heads, num_groups)
        other.shape = shape_of(other.heads, *other.norms)
        return other

    def __call__(
        self, qkv: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> torch.Tensor:
        queries = self.store(qkv, rotation, cache, start)
        output, batch = torch.empty_like(queries), batch_of(None, [_span(qkv, start, cache)])
        window = EVERYTHING if window is None else window
        if self._attend(byref(self.shape), queries.data_ptr(), byref(batch), window, output.data_ptr()):
            raise MemoryError("attention found no memory")
        return output

    def store(self, qkv: torch.Tensor, rotation: Rotation, cache: LayerCache, slot: int) -> torch.Tensor:
        heads, qkv = self.heads, qkv.contiguous()
        queries = torch.empty((len(qkv), heads.num_heads * heads.size), dtype=self._dtype)
        batch = batch_of(rotation, [_span(qkv, slot, cache)])
        self._rotate(byref(self.shape), qkv.data_ptr(), byref(batch), 0, queries.data_ptr())
        return queries

    def part(self, queries: torch.Tensor, cache: LayerCache, slots: range, ahead: int, window: int | None) -> Part:
        heads, tokens = self.heads, len(queries)
        part = Part(torch.empty(tokens, heads.num_heads, heads.size), torch.empty(tokens, heads.num_heads))
        position = slots.start + ahead  # of the first query, where each slot is a position
        batch = batch_of(None, [_span(queries, position, cache)])
        places = (byref(self.shape), queries.data_ptr(), byref(batch))
        seen = (EVERYTHING if window is None else window, slots.start, slots.stop)
        if self._attend_part(*places, *seen, *(each.data_ptr() for each in part)):
            raise MemoryError("attention found no memory")
        return part


def _span(rows: torch.Tensor, start: int, cache: LayerCache) -> FusedSpan:
    return FusedSpan(len(rows), start, pointers_to([cache]))
