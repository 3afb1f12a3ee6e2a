"""Layers with random weights of the native variants, and caches for them."""

import platform

import torch

from mpi_spp.kernels.attention import Heads, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.layer import HeadsPart, Layer, MLPPart
from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.plain import Plain
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.loading.hub import cache_directory

OF_INTEGERS = ("avx512vnni", "avxvnni")  # which have products with quantised weights of their own, and nothing else
ALIKE = [name for name in library.runnable() if name not in ("amx", "avx512bf16", "neon-bf16")]  # in float32
OF_OTHERS = "a" if platform.machine() == "aarch64" else "neon"  # how variants of the other machine begin


OTHERS = [  # float32 and float16: the best variant, and the one for the most CPUs
    (name, dtype)
    for dtype in (torch.float32, torch.float16)
    for name in dict.fromkeys(library.runnable(dtype)[:1] + library.runnable(dtype)[-1:])
]
FORMS = (
    OTHERS[:1]
    + OTHERS[-1:]
    + [
        (name, torch.bfloat16)
        for name in library.VARIANTS
        if name not in OF_INTEGERS and not name.startswith(OF_OTHERS)
    ]
)


def made(name: str, dtype: torch.dtype) -> Native:
    return Native(library.load(name, cache_directory() / "kernels", dtype), dtype=dtype)


def random_rotation(tokens: int, size: int) -> Rotation:
    angles = torch.rand(tokens, size // 2) * 6
    return torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)


def random_cache(
    backend: Plain, num_groups: int, size: int, length: int, capacity: int, dtype: torch.dtype
) -> LayerCache:
    """So many random positions; what lies behind is poison."""
    whole = KVCache(range(1), range(num_groups), capacity, size, dtype, layout=backend.key_layout)
    for part in (whole.keys, whole.values, whole.scales):
        if part is not None:
            part.fill_(99 if part.dtype == torch.int8 else float("nan"))
    cache = whole.of_layer(0)
    cache.store(0, *torch.randn(2, length, num_groups, size).to(dtype if dtype != torch.int8 else torch.bfloat16))
    return cache


def copy_of(cache: LayerCache) -> LayerCache:
    return LayerCache(*(None if part is None else part.clone() for part in cache[:4]), cache.layout)


def equal(ours: LayerCache, theirs: LayerCache, stop: int) -> bool:
    """To the bit, up to a position."""
    keys = [cache.layout.read(cache.keys, 0, stop) for cache in (ours, theirs)]
    others = [
        torch.equal(a[:, :stop], b[:, :stop]) for a, b in zip(ours[1:4], theirs[1:4], strict=True) if a is not None
    ]
    return torch.equal(*keys) and all(others)


def random_layer(backend: Native, window: int | None = None) -> Layer:
    """32 numbers wide, 4 query and 2 key/value heads of 16."""

    def product(out_features: int, in_features: int) -> torch.Tensor:
        return torch.randn(out_features, in_features).to(backend.dtype) / in_features**0.5

    return Layer(
        backend.norm(torch.rand(32).to(backend.dtype), 1e-6),
        HeadsPart(
            backend.linear(product(8 * 16, 32), None),
            backend.attention(Heads(4, 2, 16, 0.25), None, None),
            backend.linear(product(32, 64), None),
            range(2),
        ),
        backend.norm(torch.rand(32).to(backend.dtype), 1e-6),
        MLPPart(
            backend.gated(product(2 * 48, 32), None, torch.nn.functional.silu, 48),
            backend.linear(product(32, 48), None),
        ),
        window=window,
    )
