"""The native kernels as a back end: bfloat16 on the CPU."""

import ctypes

import torch

from mpi_spp.kernels.attention import Attention, Heads, Rotation
from mpi_spp.kernels.linear import Activation, Gated, Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain

PANEL = 32  # outputs that lie side by side
_STORE_FLOAT32, _STORE_BFLOAT16, _ADD_FLOAT32, _SILU_MUL = range(4)
_EVERYTHING = 1 << 40  # a window that is longer than any sequence


class Native(Plain):
    """Each row comes out the same, to the bit, whatever other rows are computed with it."""

    rotation_dtype = torch.float32

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def norm(self, weight: torch.Tensor, eps: float) -> "NativeNorm":
        return NativeNorm(self._library, weight, eps)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        if weight.shape[1] % 2:  # inputs are taken in pairs
            return super().linear(weight, bias)
        return NativeLinear(self._library, weight, bias)

    def gated(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> Gated:
        if activation is not torch.nn.functional.silu or weight.shape[1] % 2:
            return super().gated(weight, bias, activation)
        return NativeSiluMul(self._library, weight, bias)

    def attention(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> "NativeAttention":
        return NativeAttention(self._library, heads, q_norm, k_norm)


class NativeNorm(RMSNorm):
    """RMSNorm of float32 rows in one pass."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, eps: float) -> None:
        super().__init__(weight, eps)
        self._norm = library.rms_norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        self._norm(x.contiguous().data_ptr(), self.weight.data_ptr(), y.data_ptr(), *x.shape, self.eps)
        return y


class NativeLinear:
    """Products with weights in panels of 32 outputs, pairs of inputs side by side; float32 until they are stored."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._product = library.linear
        self._out, self._in = weight.shape
        self._weight, self._bias = panels_of(weight), None if bias is None else _padded(bias.float())
        # A decode step makes hundreds of these calls: what does not change is looked up once.
        self._places = (self._weight.data_ptr(), None if self._bias is None else self._bias.data_ptr())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out), dtype=torch.bfloat16), _STORE_BFLOAT16)

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out)), _STORE_FLOAT32)

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        self._into(x, total, _ADD_FLOAT32)

    def _into(self, x: torch.Tensor, y: torch.Tensor, store: int) -> torch.Tensor:
        x = x.contiguous()
        size = (x.shape[0], self._out, self._in, 16, 1)
        if self._product(x.data_ptr(), *self._places, y.data_ptr(), *size, store):
            raise MemoryError("a product found no memory")
        return y


class NativeSiluMul(NativeLinear):
    """silu(gate) * up in one product, whose panels hold 16 outputs of each."""

    def __init__(self, library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(library, _alternating(weight), None if bias is None else _alternating(bias))
        self._out = len(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out // 2), dtype=torch.bfloat16), _SILU_MUL)


class NativeAttention(Attention):
    """Rotation, the cache's growth and attention over it, in two passes."""

    def __init__(self, library: ctypes.CDLL, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> None:
        super().__init__(heads, q_norm, k_norm)
        self._rotate, self._attend = library.rotate_and_store, library.attend
        self._norm_places = [None if norm is None else norm.weight.data_ptr() for norm in (q_norm, k_norm)]
        self._eps = 0.0 if q_norm is None else q_norm.eps

    def __call__(
        self,
        qkv: torch.Tensor,
        rotation: Rotation,
        keys: torch.Tensor,
        values: torch.Tensor,
        start: int,
        window: int | None,
    ) -> torch.Tensor:
        heads, tokens, qkv = self._heads, qkv.shape[0], qkv.contiguous()
        queries = torch.empty((tokens, heads.num_heads * heads.size), dtype=torch.bfloat16)
        output = torch.empty_like(queries)
        sizes = (tokens, heads.num_groups, heads.num_heads // heads.num_groups, heads.size, keys.shape[2], start)
        angles = (rotation[0].data_ptr(), rotation[1].data_ptr())
        inputs = (qkv.data_ptr(), *angles, *self._norm_places, self._eps, heads.scale)
        cache = (keys.data_ptr(), values.data_ptr())
        self._rotate(*inputs, queries.data_ptr(), *cache, *sizes)
        window = _EVERYTHING if window is None else window
        if self._attend(queries.data_ptr(), *cache, output.data_ptr(), *sizes, window):
            raise MemoryError("attention found no memory")
        return output


def panels_of(weight: torch.Tensor) -> torch.Tensor:
    """Weights [out, in] of 16 bits as [panels, in / 2, PANEL, 2]; outputs that are missing in the last panel are 0."""
    in_ = weight.shape[1]
    pairs = _padded(weight.contiguous()).view(-1, PANEL, in_).view(torch.int32)
    return pairs.transpose(1, 2).contiguous().view(weight.dtype).view(-1, in_ // 2, PANEL, 2)


def _alternating(gate_up: torch.Tensor) -> torch.Tensor:
    """Rows of gate and up [2 * size, ...] in turn, 16 of each, zeros where size is no multiple of 16."""
    gate, up = (_padded(part.contiguous(), 16).unflatten(0, (-1, 16)) for part in gate_up.chunk(2))
    return torch.stack((gate, up), dim=1).flatten(0, 2)


def _padded(rows: torch.Tensor, multiple: int = PANEL) -> torch.Tensor:
    missing = -len(rows) % multiple
    return torch.cat((rows, rows.new_zeros((missing, *rows.shape[1:])))) if missing else rows
