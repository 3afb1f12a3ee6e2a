"""Layers in one call of the library, or the halves of one where ranks add up between them."""

import ctypes
from collections.abc import Sequence
from typing import Any, Self

import torch

from mpi_spp.kernels.attention import Heads, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.layer import FusedSpan, Layer
from mpi_spp.kernels.native.cache import Batch, batch_of, pointers_to
from mpi_spp.kernels.native.linear import Matrix
from mpi_spp.kernels.norm import RMSNorm

EVERYTHING = 1 << 40  # a window that is longer than any sequence
_ATTENTION, _MLP = 1, 2  # halves of a layer in layer.c


class HeadsShape(ctypes.Structure):
    """`Heads` of native.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("groups", "heads", "size")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


class _Layer(ctypes.Structure):
    """`Layer` of layer.c."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm")),
        ("heads", HeadsShape),
        ("window", ctypes.c_int64),
        ("eps", ctypes.c_float),
    )


class NativeLayers:
    """Runs layers of native products; a single one without an MLP only its attention."""

    def __init__(self, library: ctypes.CDLL, layers: Sequence[_Layer], kept: Sequence[Layer]) -> None:
        """`kept`: whose tensors the layers only point to."""
        self._library, self._layers, self._kept = library, layers, kept
        self._places = (ctypes.c_void_p * len(layers))(*map(ctypes.addressof, layers))

    @classmethod
    def of(cls, library: ctypes.CDLL, layer: Layer, heads: Any, mlp: Any | None) -> Self:
        """A single one; `heads` and `mlp`: its parts, all products of which are native ones."""
        mlp_products = (Matrix(), Matrix()) if mlp is None else (mlp.gate_up.matrix, mlp.down.matrix)
        place = _Layer(
            *(heads.qkv.matrix, heads.output.matrix, *mlp_products),
            *(place_of(norm) for norm in (layer.input_norm, layer.mlp_norm)),
            *(heads.attention.shape, EVERYTHING if layer.window is None else layer.window, layer.input_norm.eps),
        )
        return cls(library, [place], [layer])

    def followed_by(self, others: Sequence[Self]) -> Self | None:
        layers = [*self._layers, *(layer for other in others for layer in other._layers)]
        shapes = {(layer.heads.groups, layer.heads.heads, layer.heads.size) for layer in layers}
        kept = [*self._kept, *(layer for other in others for layer in other._kept)]
        return type(self)(self._library, layers, kept) if len(shapes) == 1 else None

    def places(self, caches: Sequence[LayerCache]) -> Any:
        return pointers_to(caches)

    def __call__(self, hidden: torch.Tensor, rotation: Rotation, spans: Sequence[FusedSpan]) -> None:
        self._run(hidden, batch_of(rotation, spans), _ATTENTION | _MLP, True)

    def attend(self, hidden: torch.Tensor, rotation: Rotation, spans: Sequence[FusedSpan], keep: bool) -> None:
        self._run(hidden, batch_of(rotation, spans), _ATTENTION, keep)

    def transform(self, hidden: torch.Tensor, keep: bool) -> None:
        self._run(hidden, Batch(tokens=len(hidden)), _MLP, keep)

    def _run(self, hidden: torch.Tensor, batch: Batch, halves: int, keep: bool) -> None:
        layers = (self._places, len(self._layers))
        if self._library.run_layers(*layers, hidden.data_ptr(), ctypes.byref(batch), halves, keep):
            raise MemoryError("layers found no memory")


def shape_of(heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> HeadsShape:
    """What the kernels want to know of heads; the norms must outlive the result."""
    sizes = (heads.num_groups, heads.num_heads // heads.num_groups, heads.size)
    return HeadsShape(*sizes, place_of(q_norm), place_of(k_norm), 0.0 if q_norm is None else q_norm.eps, heads.scale)


def place_of(norm: RMSNorm | None) -> int | None:
    """Where its weight is."""
    return None if norm is None else norm.weight.data_ptr()
