"""A layer in one call of the library, or in two where ranks add up between them."""

import ctypes
from typing import Any

import torch

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.layer import Layer
from mpi_spp.kernels.native.cache import pointers_to
from mpi_spp.kernels.native.linear import Matrix
from mpi_spp.kernels.norm import RMSNorm

EVERYTHING = 1 << 40  # a window that is longer than any sequence


class _Layer(ctypes.Structure):
    """`Layer` of layer.c."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, ctypes.c_int64) for name in ("groups", "heads", "size")),
        *((name, ctypes.c_float) for name in ("norm_eps", "head_eps", "scale")),
    )


class NativeLayer:
    """Runs a layer of native products on the rows of one sequence; without an MLP only its attention."""

    def __init__(self, library: ctypes.CDLL, layer: Layer, heads: Any, mlp: Any | None) -> None:
        """`heads` and `mlp`: the parts of the layer, all products of which are native ones."""
        self._library, self._kept = library, layer  # its tensors are only pointed to
        shape, norms = heads.attention.heads, (layer.input_norm, layer.mlp_norm, *heads.attention.norms)
        q_norm = heads.attention.norms[0]
        mlp_products = (Matrix(), Matrix()) if mlp is None else (mlp.gate_up.matrix, mlp.down.matrix)
        self._layer = _Layer(
            *(heads.qkv.matrix, heads.output.matrix, *mlp_products),
            *(_place(norm) for norm in norms),
            *(shape.num_groups, shape.num_heads // shape.num_groups, shape.size),
            *(layer.input_norm.eps, 0.0 if q_norm is None else q_norm.eps, shape.scale),
        )
        self._place = ctypes.addressof(self._layer)

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> None:
        _check(self._library.run_layer(*self._inputs(hidden, rotation, cache, start, window)))

    def attend(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None, keep: bool
    ) -> None:
        _check(self._library.run_attention(*self._inputs(hidden, rotation, cache, start, window), keep))

    def transform(self, hidden: torch.Tensor, keep: bool) -> None:
        _check(self._library.run_mlp(self._place, hidden.data_ptr(), hidden.shape[0], keep))

    def _inputs(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> tuple[Any, ...]:
        places = (tensor.data_ptr() for tensor in (hidden, *rotation))
        sizes = (hidden.shape[0], start, EVERYTHING if window is None else window)
        return (self._place, *places, ctypes.byref(pointers_to(cache)), *sizes)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("a layer found no memory")


def _place(norm: RMSNorm | None) -> int | None:
    return None if norm is None else norm.weight.data_ptr()
