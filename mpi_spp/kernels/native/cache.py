"""A layer's cache as the native kernels see it."""

import ctypes

from mpi_spp.kernels.cache import LayerCache


class Cache(ctypes.Structure):
    """`Cache` of native.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        ("capacity", ctypes.c_int64),
    )


def pointers_to(cache: LayerCache) -> Cache:
    """Where its parts are; the tensors must outlive the result."""
    return Cache(*(None if part is None else part.data_ptr() for part in cache), cache.keys.shape[2])
