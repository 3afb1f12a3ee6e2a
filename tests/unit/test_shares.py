"""Shares of a layer: every head and column in one of them, about equally heavy, for any count."""

import itertools
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_shape import LayerShape

from mpi_spp.parallel.shares import Experts, Share, heads_among, kv_heads_of, split_balanced, split_layer

SMOLLM2 = LayerShape(576, 1536, 9, 3, 64)
QWEN3 = LayerShape(1024, 3072, 16, 8, 128)


@st.composite
def shapes(draw: st.DrawFn) -> LayerShape:
    heads = draw(st.integers(1, 9))
    queries = heads * draw(st.integers(1, 5))
    return LayerShape(
        draw(st.integers(1, 600)), draw(st.integers(1, 2000)), queries, heads, 2 * draw(st.integers(1, 64))
    )


def weight_of(share: Share, shape: LayerShape) -> int:
    heads = 2 * (len(share.query_heads) + len(share.kv_heads)) * shape.head_dim
    return shape.hidden_size * (heads + 3 * len(share.mlp))


@given(shapes(), st.integers(1, 20))
def test_everything_is_in_one_share(shape: LayerShape, count: int) -> None:
    shares = split_layer(shape, count)
    assert len(shares) == count
    assert [head for share in shares for head in share.query_heads] == list(range(shape.num_attention_heads))
    assert [column for share in shares for column in share.mlp] == list(range(shape.intermediate_size))
    assert kv_heads_of(shares) == range(shape.num_key_value_heads)


@given(shapes(), st.integers(1, 20))
def test_query_heads_are_with_their_keys_and_equally_many_with_each(shape: LayerShape, count: int) -> None:
    size = shape.num_attention_heads // shape.num_key_value_heads
    for share in split_layer(shape, count):
        assert {head // size for head in share.query_heads} == set(share.kv_heads)
        if share.kv_heads:
            assert len(share.query_heads) % len(share.kv_heads) == 0


@given(shapes(), st.integers(1, 20), st.data())
def test_heads_of_consecutive_shares_are_consecutive(shape: LayerShape, count: int, data: st.DataObject) -> None:
    shares = split_layer(shape, count)
    first = data.draw(st.integers(0, count - 1))
    some = shares[first : data.draw(st.integers(first + 1, count))]
    assert set(kv_heads_of(some)) == {head for share in some for head in share.kv_heads}


@given(shapes(), st.integers(1, 20), st.integers(1, 20), st.sampled_from(["query_heads", "kv_heads"]))
def test_heads_are_found_among_other_shares(shape: LayerShape, count: int, other: int, kind: str) -> None:
    """Each once, in order, however the others are cut."""
    ranges = [getattr(share, kind) for share in split_layer(shape, other)]
    for share in split_layer(shape, count):
        wanted = getattr(share, kind)
        found = [ranges[index][place] for index, places in heads_among(wanted, ranges) for place in places]
        assert found == list(wanted)


@given(shapes(), st.integers(1, 20))
def test_shares_begin_at_whole_units_where_there_are_enough(shape: LayerShape, count: int) -> None:
    if shape.intermediate_size >= 64 * count:
        assert all(share.mlp.start % 32 == 0 for share in split_layer(shape, count) if share.mlp)


@st.composite
def shapes_with_experts(draw: st.DrawFn) -> LayerShape:
    count = draw(st.integers(1, 12))
    experts = Experts(count, draw(st.integers(1, count)), draw(st.integers(1, 300)), draw(st.integers(0, 300)))
    return replace(draw(shapes()), experts=experts)


@given(shapes_with_experts(), st.integers(1, 7), st.integers(1, 4))
def test_every_column_of_every_expert_is_in_one_share(shape: LayerShape, groups: int, of_group: int) -> None:
    """Also with more groups than experts. Those of a group have the same experts."""
    shares = split_layer(shape, groups * of_group, groups)
    assert shape.experts is not None
    found = sorted((e, column) for share in shares for e in share.experts for column in share.expert_columns)
    assert found == list(itertools.product(range(shape.experts.count), range(shape.experts.size)))
    assert [column for share in shares for column in share.shared] == list(range(shape.experts.shared_size))
    for group in range(groups):
        assert len({share.experts for share in shares[group * of_group : (group + 1) * of_group]}) == 1


def test_experts_divide_evenly_over_groups_and_columns_within() -> None:
    shape = replace(QWEN3, experts=Experts(16, 2, 512, 0))
    first, second, third, fourth = split_layer(shape, 4, 2)
    assert first.experts == second.experts == range(8) and third.experts == fourth.experts == range(8, 16)
    assert [share.expert_columns for share in (first, second)] == [range(256), range(256, 512)]


@pytest.mark.parametrize("shape", (SMOLLM2, QWEN3), ids=("smollm2", "qwen3"))
@pytest.mark.parametrize("count", range(1, 9))
def test_shares_of_real_models_are_about_equally_heavy(shape: LayerShape, count: int) -> None:
    weights = [weight_of(share, shape) for share in split_layer(shape, count)]
    unit = 3 * 32 * shape.hidden_size
    assert max(weights) - min(weights) <= unit


def test_nine_query_heads_on_two_ranks() -> None:
    first, second = split_layer(SMOLLM2, 2)
    assert (first.query_heads, first.kv_heads) == (range(6), range(2))
    assert (second.query_heads, second.kv_heads) == (range(6, 9), range(2, 3))
    assert len(first.mlp) < len(second.mlp)


@given(
    st.integers(0, 500), st.integers(1, 40), st.lists(st.integers(0, 10**6), min_size=1, max_size=9), st.integers(1, 99)
)
def test_balanced_parts_hold_all_items_in_order(count: int, unit: int, loads: list[int], weight: int) -> None:
    parts = split_balanced(count, unit, loads, weight)
    assert parts[0].start == 0 and parts[-1].stop == count
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert all(part.start % unit == 0 for part in parts if part.stop > part.start)
