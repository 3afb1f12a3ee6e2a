"""What a cache gives back: as kept, within half a step of the codes, and through the rows of a sync to the bit."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.kernels.cache import quantize_heads
from mpi_spp.kv.cache import KVCache

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
HEADS, CAPACITY = 3, 11


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_size_of_a_position(dtype: torch.dtype) -> None:
    cache = random_cache(range(1), 6, dtype)
    assert cache.position_bytes == len(bytes_at(cache, 0, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_stored_is_read(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    cache = random_cache(range(2, 4), 6, dtype).of_layer(3)
    keys, values = torch.randn(2, 4, HEADS, 6)
    cache.store(5, keys, values)
    read_keys, read_values = cache.read(5, 9, torch.float32)
    steps = quantize_heads(torch.stack((keys, values)))[1].max() / 2 if dtype == torch.int8 else 0.01
    assert (read_keys.permute(2, 0, 1) - keys).abs().max() <= steps
    assert (read_values.transpose(0, 1) - values).abs().max() <= steps


def test_codes_are_read_in_the_dtype_that_is_wanted() -> None:
    cache = random_cache(range(1), 6, torch.int8).of_layer(0)
    cache.store(2, *torch.randn(2, 5, HEADS, 6))
    exact = cache.read(2, 7, torch.float32)
    for part, rounded in zip(exact, cache.read(2, 7, torch.bfloat16), strict=True):
        assert torch.equal(rounded, part.bfloat16())


def random_cache(layers: range, head_dim: int, dtype: torch.dtype) -> KVCache:
    """Filled with any bits, since a sync must not look at them."""
    cache = KVCache(layers, HEADS, CAPACITY, head_dim, dtype)
    for part in (cache.keys, cache.values, cache.scales):
        if part is not None:
            part.view(torch.uint8).random_(0, 256)
    return cache


@pytest.mark.parametrize("head_dim", [2, 6, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(st.integers(3, 7), st.integers(3, 7), st.integers(0, CAPACITY), st.integers(0, CAPACITY), st.integers(0, 3))
def test_a_part_travels_to_the_bit_and_touches_nothing_else(
    dtype: torch.dtype, head_dim: int, first: int, last: int, start: int, stop: int, rows_before: int
) -> None:
    torch.manual_seed(start + stop)
    layers, positions = range(first, last), range(start, stop)
    sender, receiver = random_cache(range(3, 7), head_dim, dtype), random_cache(range(2, 7), head_dim, dtype)
    before, count = copy.deepcopy(receiver), len(layers) * len(positions)
    rows = torch.empty((rows_before + count, sender.position_bytes), dtype=torch.uint8)
    sender.pack(layers, positions, rows[rows_before:])
    receiver.unpack(layers, positions, rows[rows_before:])
    for layer, position in itertools.product(range(2, 7), range(CAPACITY)):
        source = sender if layer in layers and position in positions else before
        assert torch.equal(bytes_at(receiver, layer, position), bytes_at(source, layer, position))


def bytes_at(cache: KVCache, layer: int, position: int) -> torch.Tensor:
    """What it keeps of one position, position_bytes of them."""
    kept = cache.of_layer(layer)
    parts = [kept.keys[..., position], *(part[:, position] for part in kept[1:] if part is not None)]
    return torch.cat([part.contiguous().view(-1).view(torch.uint8) for part in parts])
