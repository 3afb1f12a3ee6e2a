"""Attention against the definition, in float64."""

import pytest
import torch

from mpi_spp.kernels.attention import attention, first_visible
from mpi_spp.kv.cache import KVCache

HEAD_DIM = 12
# The largest absolute errors that were measured with the cases below, times three. Outputs are means of values near 1.
LARGEST_ERROR = {torch.float32: 2e-6, torch.bfloat16: 5e-2}


def naive(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int, window: int | None) -> torch.Tensor:
    """One query head and one row at a time; `keys` and `values` hold every position from 0 on."""
    tokens, num_heads, head_dim = queries.shape
    heads_per_group = num_heads // keys.shape[0]
    output = torch.empty(tokens, num_heads, head_dim, dtype=torch.float64)
    for row in range(tokens):
        position = start + row
        seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
        for head in range(num_heads):
            of_head = keys[head // heads_per_group, seen].double(), values[head // heads_per_group, seen].double()
            scores = of_head[0] @ queries[row, head].double() / head_dim**0.5
            output[row, head] = torch.softmax(scores, dim=0) @ of_head[1]
    return output.view(tokens, -1)


def random_case(num_heads: int, num_groups: int, tokens: int, start: int, dtype: torch.dtype) -> tuple[torch.Tensor, KVCache]:
    """Queries, and a cache that is longer than what they may see; what lies behind is poison."""
    torch.manual_seed(num_heads + tokens + start)
    cache = KVCache(range(4, 6), num_groups, start + tokens + 3, HEAD_DIM, dtype)
    cache.data.fill_(float("nan"))
    keys, values = (torch.randn(start + tokens, num_groups, HEAD_DIM).to(dtype) for _ in range(2))
    cache.write(5, 0, keys, values)
    return torch.randn(tokens, num_heads, HEAD_DIM).to(dtype), cache


@pytest.mark.parametrize("dtype", LARGEST_ERROR, ids=str)
@pytest.mark.parametrize("window", [None, 1, 4, 40, 1000])
@pytest.mark.parametrize("tokens, start", [(1, 0), (1, 33), (7, 0), (7, 33), (33, 0), (33, 5)])
@pytest.mark.parametrize("num_heads, num_groups", [(9, 3), (4, 4), (5, 1)])
def test_attention(
    num_heads: int, num_groups: int, tokens: int, start: int, window: int | None, dtype: torch.dtype
) -> None:
    queries, cache = random_case(num_heads, num_groups, tokens, start, dtype)
    seen = cache.read(5, range(first_visible(start, window), start + tokens))
    output = attention(queries, *seen, start, window)
    assert output.dtype == dtype
    expected = naive(queries, *cache.read(5, range(start + tokens)), start, window)
    assert output.shape == expected.shape
    assert (output.double() - expected).abs().max() < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("start, window, first", [(0, None, 0), (9, None, 0), (9, 4, 6), (9, 10, 0), (9, 99, 0), (9, 1, 9)])
def test_first_visible(start: int, window: int | None, first: int) -> None:
    assert first_visible(start, window) == first


def test_large_scores_do_not_overflow() -> None:
    """Scores of 500 and more: exp of them is infinite in float32."""
    queries, cache = random_case(2, 2, 5, 8, torch.float32)
    keys, values = cache.read(5, range(13))
    expected = naive(queries * 100, keys, values, 8, None)
    assert (attention(queries * 100, keys, values, 8).double() - expected).abs().max() < 1e-4
