"""A layer's cache as the native kernels see it."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kernels.cache import KeyLayout, LayerCache
from mpi_spp.kernels.layer import FusedSpan
from mpi_spp.kernels.quantized import PANEL


class Cache(ctypes.Structure):
    """`Cache` of native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        ("capacity", ctypes.c_int64),
    )


def pointers_to(caches: Sequence[LayerCache]) -> ctypes.Array[Cache]:
    """Where the parts of some layers' caches are; the tensors must outlive the result."""
    return (Cache * len(caches))(*map(_pointers_to, caches))


def _pointers_to(cache: LayerCache) -> Cache:
    parts = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    return Cache(*(None if part is None else part.data_ptr() for part in parts), cache.values.shape[1])


class _Span(ctypes.Structure):
    """`Span` of native.h."""

    _fields_ = (("caches", ctypes.c_void_p), ("tokens", ctypes.c_int64), ("start", ctypes.c_int64))


class Batch(ctypes.Structure):
    """`Batch` of native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "spans")),
        *((name, ctypes.c_int64) for name in ("count", "tokens")),
    )
    kept: Any  # what it points to


def batch_of(rotation: Rotation | None, spans: Sequence[FusedSpan]) -> Batch:
    """The rows of some spans; their angles must outlive the result."""
    array = (_Span * len(spans))(*(_Span(ctypes.addressof(places), rows, start) for rows, start, places in spans))
    angles = (None, None) if rotation is None else (each.data_ptr() for each in rotation)
    batch = Batch(*angles, ctypes.addressof(array), len(spans), sum(rows for rows, _, _ in spans))
    batch.kept = (array, spans)
    return batch


class PanelShape(KeyLayout):
    """Keys [..., panels of PANEL positions, size / 2, PANEL, 2], for who counts their bytes only."""

    def shape(self, size: int, capacity: int) -> tuple[int, ...]:
        return (-(-capacity // PANEL), size // 2, PANEL, 2)


class KeyPanels(PanelShape):
    """Keys in panels: one row's scores read them from end to end."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._take, self._put = library.take_keys, library.put_keys

    def read(self, keys: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        columns = keys.new_empty((*keys.shape[:-4], 2 * keys.shape[-3], stop - start))
        self.take(keys, start, columns)
        return columns

    def take(self, keys: torch.Tensor, start: int, columns: torch.Tensor) -> None:
        self._copy(self._take, keys, start, columns)

    def put(self, keys: torch.Tensor, start: int, columns: torch.Tensor) -> None:
        self._copy(self._put, keys, start, columns.to(keys.dtype).contiguous())

    def _copy(self, copy: Callable[..., None], keys: torch.Tensor, start: int, columns: torch.Tensor) -> None:
        if keys.dim() > 5:  # layers, of which some heads need not lie side by side
            for layer, part in zip(keys, columns, strict=True):
                self._copy(copy, layer, start, part)
            return
        heads, panels = keys.shape[:2]
        size, count = columns.shape[1:]
        copy(keys.data_ptr(), columns.data_ptr(), heads, panels, size, start, count, keys.element_size())
