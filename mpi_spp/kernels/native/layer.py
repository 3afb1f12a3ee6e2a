"""A whole layer in one call of the library."""

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
    """Runs a layer of native products on the rows of one sequence."""

    def __init__(self, library: ctypes.CDLL, layer: Any) -> None:
        self._run: Any = library.run_layer
        self._kept: Layer = layer  # its tensors are only pointed to
        heads, norms = layer.attention.heads, (layer.input_norm, layer.mlp_norm, *layer.attention.norms)
        q_norm = layer.attention.norms[0]
        self._layer = _Layer(
            *(product.matrix for product in (layer.qkv, layer.output, layer.gate_up, layer.down)),
            *(_place(norm) for norm in norms),
            *(heads.num_groups, heads.num_heads // heads.num_groups, heads.size),
            *(layer.input_norm.eps, 0.0 if q_norm is None else q_norm.eps, heads.scale),
        )
        self._place = ctypes.addressof(self._layer)

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> None:
        places = (tensor.data_ptr() for tensor in (hidden, *rotation))
        sizes = (hidden.shape[0], start, EVERYTHING if window is None else window)
        if self._run(self._place, *places, ctypes.byref(pointers_to(cache)), *sizes):
            raise MemoryError("a layer found no memory")


def _place(norm: RMSNorm | None) -> int | None:
    return None if norm is None else norm.weight.data_ptr()
