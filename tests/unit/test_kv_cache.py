"""What a cache gives back: as kept, within half a step of the codes, and through the rows of a sync to the bit."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.cache import COLUMNS, quantize_heads
from mpi_spp.kernels.choice import backends
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.loading.hub import cache_directory

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
LAYOUTS = {"plain": COLUMNS}
for name, dtype in (("native", torch.bfloat16), ("lines", torch.float32)):  # which have panels of pairs, and of lines
    made = backends(dtype, torch.device("cpu"), cache_directory() / "kernels")
    native = [backend.key_layout for one, backend in made.items() if is_native(one)]
    LAYOUTS |= dict.fromkeys([name] * len(native), native[0]) if native else {}
# Layouts of caches of the same dtype, between which a sync may move it.
OF_DTYPE = {torch.float32: ("plain", "lines"), torch.bfloat16: ("plain", "native"), torch.int8: tuple(LAYOUTS)}
PAIRS = [(torch.float16, "plain", "plain")] + [
    (dtype, *names)
    for dtype, wanted in OF_DTYPE.items()
    for names in itertools.product(filter(LAYOUTS.get, wanted), repeat=2)
]
KEPT = [(dtype, sender) for dtype, sender, receiver in PAIRS if sender == receiver]
LAYERS, HEADS, CAPACITY = range(3, 7), range(1, 4), 75
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e4])
def test_codes_are_at_most_half_a_step_off(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(1)
    heads = (torch.randn(50, 8, 64) * size).to(dtype)
    codes, scales = quantize_heads(heads)
    assert codes.dtype == torch.int8 and scales.dtype == torch.float32 and scales.shape == (50, 8)
    assert codes.abs().amax(-1).eq(127).all()
    exact, scales = heads.double(), scales.double()[..., None]
    assert torch.allclose(scales[..., 0], exact.abs().amax(-1) / 127, rtol=1e-7, atol=0)
    assert ((codes.double() * scales - exact).abs() <= scales * 0.50001).all()


def test_codes_of_extreme_heads() -> None:
    """Zeros and numbers that are too small for a scale become 0; a scale of one bit does not make codes overflow."""
    heads = torch.zeros(4, 2)
    heads[1, 0], heads[2, 0], heads[3, 1] = 1e-44, -2.5e-43, float("nan")
    codes, scales = quantize_heads(heads)
    assert scales[:2].tolist() == [0, 0] and codes[:2].eq(0).all()
    assert codes[2].tolist() == [-127, 0] and scales[2] > 0
    assert scales[3].isnan()


def random_cache(
    dtype: torch.dtype, layout: str = "plain", layers: range = LAYERS, heads: range = HEADS, head_dim: int = 6
) -> KVCache:
    """Filled with any bits, since a sync must not look at them."""
    cache = KVCache(layers, heads, CAPACITY, head_dim, dtype, layout=LAYOUTS[layout])
    for part in (cache.keys, cache.values, cache.scales):
        if part is not None:
            part.view(torch.uint8).random_(0, 256)
    return cache


def contents(cache: KVCache) -> list[torch.Tensor]:
    """The bits of scales of keys and of values, keys, and values, each [layers, heads, positions, ...]."""
    keys = cache.layout.read(cache.keys, 0, CAPACITY).mT
    parts = [*(() if cache.scales is None else cache.scales), keys, cache.values]
    return [part.clone().view(INTEGERS[part.element_size()]) for part in parts]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_size_of_a_position_and_of_all(dtype: torch.dtype) -> None:
    cache = random_cache(dtype)
    parts = contents(cache)
    assert cache.position_bytes == sum(part[0, 0, 0].nbytes for part in parts)
    assert cache.nbytes == sum(part.nbytes for part in parts)


@pytest.mark.skipif("native" not in LAYOUTS, reason="no native kernels here")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_key_panels_are_whole_and_count(dtype: torch.dtype) -> None:
    """Their order is that of native.h, and the room behind the last position is part of the cache's size."""
    plain, native = random_cache(dtype), random_cache(dtype, "native")
    native.layout.put(native.keys, 0, plain.keys)
    panels, pairs, panel, pair = native.keys.shape[2:]
    assert (panels, pairs, panel, pair) == (3, 3, 32, 2)
    columns = native.keys.permute(0, 1, 3, 5, 2, 4).reshape(*plain.keys.shape[:3], panels * panel)
    integers = INTEGERS[dtype.itemsize]
    assert torch.equal(columns[..., :CAPACITY].view(integers), plain.keys.view(integers))
    behind = (panels * panel - CAPACITY) * 6 * len(LAYERS) * len(HEADS) * dtype.itemsize
    assert native.nbytes == plain.nbytes + behind


@pytest.mark.parametrize("dtype, layout", KEPT, ids=str)
def test_what_is_stored_is_read(dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(1)
    cache = random_cache(dtype, layout).of_layer(3)
    keys, values = torch.randn(2, 34, len(HEADS), 6)
    cache.store(5, keys, values)
    read_keys, read_values = cache.read(5, 39, torch.float32)
    steps = quantize_heads(torch.stack((keys, values)))[1].max() / 2 if dtype == torch.int8 else 0.01
    assert (read_keys.permute(2, 0, 1) - keys).abs().max() <= steps
    assert (read_values.transpose(0, 1) - values).abs().max() <= steps


@pytest.mark.parametrize("dtype, layout", KEPT, ids=str)
@pytest.mark.parametrize("heads", [range(1, 4), range(2, 3), range(2, 4), range(3, 3)], ids=str)
def test_some_heads_of_a_layer_are_views_of_these(heads: range, dtype: torch.dtype, layout: str) -> None:
    cache = random_cache(dtype, layout)
    before = contents(cache)
    cache.of_layer(4, heads).store(30, *torch.randn(2, 5, len(heads), 6))
    for new, old in zip(contents(cache), before, strict=True):
        stored, replaced = (place_in(cache, part, range(4, 5), heads, range(30, 35)) for part in (new, old))
        assert len(heads) == 0 or not torch.equal(stored, replaced)
        replaced.copy_(stored)
        assert torch.equal(new, old)


def test_codes_are_read_in_the_dtype_that_is_wanted() -> None:
    cache = random_cache(torch.int8).of_layer(3)
    cache.store(2, *torch.randn(2, 5, len(HEADS), 6))
    exact = cache.read(2, 7, torch.float32)
    for part, rounded in zip(exact, cache.read(2, 7, torch.bfloat16), strict=True):
        assert torch.equal(rounded, part.bfloat16())


def ranges_in(whole: range) -> st.SearchStrategy[range]:
    """Any range there, empty ones too."""
    edges = st.integers(whole.start, whole.stop)
    return st.builds(lambda a, b: range(min(a, b), max(a, b)), edges, edges)


@pytest.mark.parametrize("head_dim", [2, 6, 64])
@pytest.mark.parametrize("dtype, sender_layout, receiver_layout", PAIRS, ids=str)
@settings(max_examples=15)
@given(ranges_in(LAYERS), ranges_in(HEADS), ranges_in(range(CAPACITY)), st.integers(0, 3))
def test_a_part_travels_to_the_bit_and_touches_nothing_else(
    dtype: torch.dtype,
    sender_layout: str,
    receiver_layout: str,
    head_dim: int,
    layers: range,
    heads: range,
    positions: range,
    rows_before: int,
) -> None:
    torch.manual_seed(positions.start + positions.stop)
    sender = random_cache(dtype, sender_layout, head_dim=head_dim)
    receiver = random_cache(dtype, receiver_layout, range(2, 7), range(5), head_dim)
    expected, given_ = contents(receiver), contents(sender)
    count = len(layers) * len(heads) * len(positions)
    rows = torch.empty((rows_before + count, sender.position_bytes), dtype=torch.uint8)
    sender.pack(layers, heads, positions, rows[rows_before:])
    receiver.unpack(layers, heads, positions, rows[rows_before:])
    for ours, theirs in zip(expected, given_, strict=True):
        place_in(receiver, ours, layers, heads, positions).copy_(place_in(sender, theirs, layers, heads, positions))
    for ours, theirs in zip(contents(receiver), expected, strict=True):
        assert torch.equal(ours, theirs)


def place_in(cache: KVCache, part: torch.Tensor, layers: range, heads: range, positions: range) -> torch.Tensor:
    """Some layers, heads and positions of one of the cache's `contents`."""
    spans = zip((layers, heads, positions), (cache.layers.start, cache.heads.start, 0), strict=True)
    return part[tuple(slice(span.start - start, span.stop - start) for span, start in spans)]


@pytest.mark.parametrize("dtype, layout", KEPT, ids=str)
@given(ranges_in(LAYERS), ranges_in(HEADS), ranges_in(range(CAPACITY)))
def test_what_travels_knows_no_layout(
    dtype: torch.dtype, layout: str, layers: range, heads: range, positions: range
) -> None:
    """Scales, keys [layers, heads, head_dim, positions], values [layers, heads, positions, head_dim]."""
    torch.manual_seed(1)
    cache = random_cache(dtype, layout)
    rows = torch.empty((len(layers) * len(heads) * len(positions), cache.position_bytes), dtype=torch.uint8)
    cache.pack(layers, heads, positions, rows)
    *scales, keys, values = (place_in(cache, part, layers, heads, positions) for part in contents(cache))
    expected = [part.contiguous().view(-1).view(torch.uint8) for part in (*scales, keys.mT, values)]
    assert torch.equal(rows.view(-1), torch.cat(expected))
