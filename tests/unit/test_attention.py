"""Attention against the definition, in float64."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

from mpi_spp.kernels.attention import Attention, Heads, first_visible
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.choice import backends
from mpi_spp.kernels.merge import merge, nothing
from mpi_spp.kernels.plain import Plain
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.loading.hub import cache_directory

HEAD_DIM = 16
SCALE = HEAD_DIM**-0.5  # a power of two: scaling the queries first rounds nothing
CASES = [
    (dtype, name)
    for dtype in (torch.float32, torch.bfloat16)
    for name in backends(dtype, torch.device("cpu"), cache_directory() / "kernels")
]
# Measured with the cases below: 4e-7 and 0.017. Outputs are means of values near 1.
LARGEST_ERROR = {torch.float32: 2e-6, torch.bfloat16: 0.05}


@dataclass
class Case:
    """The last tokens of a sequence over a cache that is longer than what they may see; what lies behind is poison."""

    queries: torch.Tensor  # [tokens, heads, head_dim]
    keys: torch.Tensor  # [positions, groups, head_dim]
    values: torch.Tensor
    start: int

    def cache(self, name: str, dtype: torch.dtype) -> LayerCache:
        """The positions before the last rows, as a back end wants them."""
        stop, num_groups = self.keys.shape[:2]
        layout = _backend(name, self.keys.dtype).key_layout
        whole = KVCache(range(4, 6), range(num_groups), stop + 3, HEAD_DIM, dtype, layout=layout)
        for part in (whole.keys, whole.values) if whole.scales is None else (whole.scales,):
            part.fill_(float("nan"))
        cache = whole.of_layer(5)
        cache.store(0, self.keys[: self.start], self.values[: self.start])
        return cache

    def output(self, name: str, window: int | None, cache: LayerCache | None = None) -> torch.Tensor:
        """What a back end's attention makes of the last rows, with those before them in the cache."""
        cache = cache or self.cache(name, self.keys.dtype)
        return self._attention(name)(self._qkv(), self._no_rotation(name), cache, self.start, window)

    def as_kept_by(self, cache: LayerCache) -> "Case":
        """The same with the keys and values that an int8 cache gives back, in float64."""
        stop = len(self.keys)
        keys, values = cache.layout.read(cache.keys, 0, stop).double(), cache.values[:, :stop].double()
        keys, values = keys * cache.key_scales[:, None, :stop], values * cache.value_scales[:, :stop, None]
        return replace(self, keys=keys.permute(2, 0, 1), values=values.transpose(0, 1))

    def _attention(self, name: str) -> Attention:
        heads = Heads(self.queries.shape[1], self.keys.shape[1], HEAD_DIM, SCALE)
        return _backend(name, self.keys.dtype).attention(heads, None, None)

    def _qkv(self) -> torch.Tensor:
        return torch.cat((self.queries, self.keys[self.start :], self.values[self.start :]), dim=1).flatten(1)

    def _no_rotation(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = _backend(name, self.keys.dtype).rotation_dtype or self.keys.dtype
        shape = (len(self.queries), HEAD_DIM)
        return torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    def expected(self, window: int | None) -> torch.Tensor:
        """The definition, each query head with its own group's keys and values, in float64."""
        tokens, num_heads, _ = self.queries.shape
        repeats = num_heads // self.keys.shape[1]
        keys, values = (part.double().repeat_interleave(repeats, dim=1) for part in (self.keys, self.values))
        behind = torch.arange(self.start, self.start + tokens)[:, None] - torch.arange(len(keys))
        seen = (behind >= 0) & (behind < (len(keys) if window is None else window))
        scores = torch.einsum("rhd,phd->hrp", self.queries.double(), keys) * SCALE
        shares = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        return torch.einsum("hrp,phd->rhd", shares, values).flatten(1)


def _backend(name: str, dtype: torch.dtype) -> Plain:
    return backends(dtype, torch.device("cpu"), cache_directory() / "kernels")[name]


def random_case(num_heads: int, num_groups: int, tokens: int, start: int, dtype: torch.dtype) -> Case:
    torch.manual_seed(num_heads + tokens + start)
    keys, values = (torch.randn(start + tokens, num_groups, HEAD_DIM).to(dtype) for _ in range(2))
    return Case(torch.randn(tokens, num_heads, HEAD_DIM).to(dtype), keys, values, start)


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("tokens, start", [(1, 0), (1, 33), (1, 300), (3, 33), (7, 0), (7, 253), (33, 0), (33, 5)])
@pytest.mark.parametrize("num_heads, num_groups", [(9, 3), (4, 4), (5, 1)])
def test_attention(num_heads: int, num_groups: int, tokens: int, start: int, dtype: torch.dtype, name: str) -> None:
    case = random_case(num_heads, num_groups, tokens, start, dtype)
    for window in (None, 1, 4, 40, 1000):
        output, expected = case.output(name, window), case.expected(window)
        assert output.dtype == dtype
        assert output.shape == expected.shape
        assert (output.double() - expected).abs().max() < LARGEST_ERROR[dtype], f"window {window}"


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("tokens, start", [(1, 0), (1, 300), (3, 33), (7, 253), (33, 0), (33, 5)])
@pytest.mark.parametrize("num_heads, num_groups", [(9, 3), (5, 1)])
def test_attention_over_an_int8_cache(
    num_heads: int, num_groups: int, tokens: int, start: int, dtype: torch.dtype, name: str
) -> None:
    """As exact as over what the codes stand for, and every token sees its own chunk through codes too."""
    case = random_case(num_heads, num_groups, tokens, start, dtype)
    for window in (None, 4, 40):
        cache = case.cache(name, torch.int8)
        output, kept = case.output(name, window, cache), case.as_kept_by(cache)
        for ours, exact, scales in zip((kept.keys, kept.values), (case.keys, case.values), cache[2:4], strict=True):
            assert ((ours - exact.double()).abs() <= scales[:, : len(exact)].T[..., None] * 0.50001).all()
        assert output.dtype == dtype
        error = (output.double() - kept.expected(window)).abs().max()
        assert error < LARGEST_ERROR[dtype], f"window {window}"


@pytest.mark.parametrize(
    "start, window, first", [(0, None, 0), (9, None, 0), (9, 4, 6), (9, 10, 0), (9, 99, 0), (9, 1, 9)]
)
def test_first_visible(start: int, window: int | None, first: int) -> None:
    assert first_visible(start, window) == first


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("tokens", [1, 5])
def test_large_scores_do_not_overflow(tokens: int, dtype: torch.dtype, name: str) -> None:
    """Scores of several hundred: exp of them is infinite in float32."""
    case = random_case(2, 2, tokens, 8, dtype)
    case.queries *= 256
    precision = LARGEST_ERROR[dtype] * 50  # rounding of scores near 1,000
    assert (case.output(name, None).double() - case.expected(None)).abs().max() < precision


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_scores_that_fit_once_scaled_are_right(tokens: int, dtype: torch.dtype, name: str) -> None:
    case = random_case(2, 1, tokens, 40, dtype)
    case.queries.mul_(5e37)  # products of up to 6e38, which scaling afterwards would find infinite
    error = (case.output(name, None).double() - case.expected(None)).abs().max()
    assert error < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("cache_dtype", [None, torch.int8], ids=str)
@pytest.mark.parametrize("window", [None, 1, 40])
@pytest.mark.parametrize(
    "tokens, start, cuts", [(1, 33, (9, 32)), (3, 33, (34,)), (33, 5, (6, 20, 21)), (200, 300, (10, 270, 301, 420))]
)
def test_attention_over_parts_of_the_keys(
    tokens: int,
    start: int,
    cuts: tuple[int, ...],
    window: int | None,
    cache_dtype: torch.dtype | None,
    dtype: torch.dtype,
    name: str,
) -> None:
    """Merged they are attention over all; rows before, within and behind a part, and behind a window of it."""
    case = random_case(9, 3, tokens, start, dtype)
    cache = case.cache(name, cache_dtype or dtype)
    attention = case._attention(name)
    queries = attention.store(case._qkv(), case._no_rotation(name), cache, start)
    merged = nothing(tokens, 9, HEAD_DIM)
    for first, stop in itertools.pairwise((0, *cuts, start + tokens)):
        part = attention.part(queries, cache, range(first, stop), start - first, window)
        assert part.outputs.dtype == part.log_sums.dtype == torch.float32 and part.outputs.isfinite().all()
        merged = merge(merged, part)
    expected = (case.as_kept_by(cache) if cache_dtype else case).expected(window)
    assert (merged.outputs.flatten(1).double() - expected).abs().max() < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("tokens", [1, 50])
@pytest.mark.parametrize(
    "slots, ahead, window", [(range(4, 4), -1, None), (range(4, 20), -60, None), (range(9), 30, 5)]
)
def test_a_part_that_no_row_sees(
    slots: range, ahead: int, window: int | None, tokens: int, dtype: torch.dtype, name: str
) -> None:
    case = random_case(9, 3, tokens, 60, dtype)
    cache, attention = case.cache(name, dtype), case._attention(name)
    queries = attention.store(case._qkv(), case._no_rotation(name), cache, 60)
    outputs, log_sums = attention.part(queries, cache, slots, ahead, window)
    assert outputs.eq(0).all() and log_sums.eq(float("-inf")).all()
