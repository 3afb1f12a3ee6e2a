"""Chunks and layers by cost: every item once, in order, and no slower than what is simpler, by the cost itself."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.parallel.partition import split_as, split_chunks, split_evenly
from mpi_spp.parallel.schedule import Cost, makespan, plan_chunks, split_by_cost

LAYER = Cost(longest=512, per_chunk=3e-4, per_prefix=1e-8, per_token=4e-5, per_pair=1.5e-8)  # of a 135M model
rates = st.floats(0, 1, allow_subnormal=False)
costs = st.builds(Cost, st.integers(1, 600), rates, rates, rates, rates)


def lengths(chunks: list[range]) -> list[int]:
    return [len(chunk) for chunk in chunks]


@given(count=st.integers(1, 5000), stages=st.lists(costs, min_size=1, max_size=9))
def test_chunks_cover_the_prompt(count: int, stages: list[Cost]) -> None:
    chunks = plan_chunks(count, tuple(stages))
    ends = [0, *itertools.accumulate(lengths(chunks))]
    assert chunks == [range(start, stop) for start, stop in itertools.pairwise(ends)]
    assert ends[-1] == count
    assert 1 <= min(lengths(chunks)) <= max(lengths(chunks)) <= min(stage.longest for stage in stages)


@pytest.mark.parametrize("num_ranks", (1, 2, 3, 4, 7, 30))
@pytest.mark.parametrize("count", (1, 2, 100, 256, 1024, 4096))
def test_no_fixed_size_is_faster_by_the_cost(num_ranks: int, count: int) -> None:
    """Beyond half a per cent: not every length is tried."""
    stages = tuple(LAYER.times(len(span)) for span in split_evenly(30, num_ranks))
    planned = makespan(stages, plan_chunks(count, stages))
    assert all(planned <= 1.005 * makespan(stages, split_chunks(count, size)) for size in range(1, 513))


def test_chunks_shrink_as_the_prefix_grows() -> None:
    chunks = lengths(plan_chunks(4096, (LAYER,) * 4))
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[-2] < 0.7 * chunks[0]


def test_short_prompts_fill_the_pipeline() -> None:
    assert len(plan_chunks(256, (LAYER,) * 4)) >= 4


def test_one_rank_takes_long_chunks() -> None:
    assert lengths(plan_chunks(1024, (LAYER,))) == [512, 512]


@given(seconds=st.floats(1e-6, 1e6), prefix=st.integers(0, 10000), cost=costs)
def test_the_tokens_of_a_time_fit_into_it(seconds: float, prefix: int, cost: Cost) -> None:
    tokens = cost.tokens_within(seconds, prefix)
    assert 0 <= tokens <= cost.longest
    if tokens:
        assert cost.seconds(prefix, tokens) <= seconds * (1 + 1e-6) + 1e-5
    if tokens < cost.longest:
        assert cost.seconds(prefix, tokens + 1) > seconds * (1 - 1e-6) - 1e-5


def simulated(stages: list[Cost], chunks: list[range]) -> float:
    """The pipeline, step by step."""
    finished = [0.0] * len(stages)
    for chunk in chunks:
        arrived = 0.0
        for number, stage in enumerate(stages):
            finished[number] = arrived = max(arrived, finished[number]) + stage.seconds(chunk.start, len(chunk))
    return finished[-1]


@given(stages=st.lists(costs, min_size=1, max_size=6), counts=st.lists(st.integers(1, 99), min_size=1, max_size=20))
def test_the_makespan_is_that_of_the_steps(stages: list[Cost], counts: list[int]) -> None:
    chunks = split_as(counts)
    assert makespan(stages, chunks) == pytest.approx(simulated(stages, chunks))


def test_a_stage_waits_for_the_one_before_it_and_for_itself() -> None:
    one, two = Cost(9, 0, 0, 1, 0), Cost(9, 0, 0, 2, 0)
    chunks = [range(3), range(3, 5)]
    assert makespan([one, two], chunks) == 3 + 2 * 3 + 2 * 2  # the slower stage never waits again
    assert makespan([two, one], chunks) == 2 * 5 + 2
    assert makespan([one], chunks) == 5


@given(speeds=st.lists(st.floats(0.1, 10), min_size=1, max_size=12), more=st.integers(0, 60))
def test_layers_by_cost(speeds: list[float], more: int) -> None:
    num_layers = len(speeds) + more
    spans = split_by_cost(num_layers, [LAYER.times(speed) for speed in speeds])
    assert len(spans) == len(speeds)
    assert [layer for span in spans for layer in span] == list(range(num_layers))
    assert all(spans)
    slowest, slowest_even = (
        max(len(span) * speed for span, speed in zip(split, speeds, strict=True))
        for split in (spans, split_evenly(num_layers, len(speeds)))
    )
    assert slowest <= slowest_even * (1 + 1e-9)


@given(speeds=st.lists(st.floats(0.1, 10), min_size=1, max_size=4), more=st.integers(0, 8))
def test_no_other_split_is_faster_by_more_than_noise(speeds: list[float], more: int) -> None:
    """Of all, one by one."""
    num_layers = len(speeds) + more
    spans = split_by_cost(num_layers, [LAYER.times(speed) for speed in speeds])
    others = itertools.product(range(1, num_layers + 1), repeat=len(speeds))
    slowest, *rest = (
        max(count * speed for count, speed in zip(counts, speeds, strict=True))
        for counts in ([len(span) for span in spans], *(one for one in others if sum(one) == num_layers))
    )
    assert slowest <= 1.05 * min(rest) * (1 + 1e-9)


@given(
    noise=st.lists(st.floats(1.0, 1.04), min_size=1, max_size=12),
    more=st.integers(0, 60),
)
def test_noise_leaves_the_layers_even(noise: list[float], more: int) -> None:
    num_layers = len(noise) + more
    spans = split_by_cost(num_layers, [LAYER.times(factor) for factor in noise])
    assert spans == split_evenly(num_layers, len(noise))


def test_a_rank_of_half_the_speed_gets_half_the_layers() -> None:
    spans = split_by_cost(30, [LAYER, LAYER.times(2), LAYER])
    assert [len(span) for span in spans] == [12, 6, 12]
