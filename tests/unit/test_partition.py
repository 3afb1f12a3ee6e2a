"""Every item is handed out once, in order, for any count of items and ranks."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.parallel.partition import (
    CONTEXT_SPLITS,
    Ranges,
    rows_of,
    split_as,
    split_chunks,
    split_evenly,
    split_positions,
    within,
)


@given(count=st.integers(0, 300), parts=st.integers(1, 64))
def test_split_evenly(count: int, parts: int) -> None:
    spans = split_evenly(count, parts)
    assert len(spans) == parts
    assert [item for span in spans for item in span] == list(range(count))
    sizes = [len(span) for span in spans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@given(counts=st.lists(st.integers(0, 20), max_size=20))
def test_split_as(counts: list[int]) -> None:
    spans = split_as(counts)
    assert [len(span) for span in spans] == counts
    assert [item for span in spans for item in span] == list(range(sum(counts)))


@given(count=st.integers(1, 300), chunk_size=st.integers(1, 400))
def test_split_chunks(count: int, chunk_size: int) -> None:
    chunks = split_chunks(count, chunk_size)
    assert [item for chunk in chunks for item in chunk] == list(range(count))
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= chunk_size


LENGTHS = st.integers(1, 300)
CHUNK_SIZES = st.integers(1, 400)
ORDERS = st.sampled_from(CONTEXT_SPLITS)


@given(count=LENGTHS, chunk_size=CHUNK_SIZES, parts=st.integers(1, 9), order=ORDERS)
def test_split_positions(count: int, chunk_size: int, parts: int, order: str) -> None:
    """Each position has one part, in which ranges ascend with gaps between them."""
    found = split_positions(split_chunks(count, chunk_size), parts, order)
    assert len(found) == parts
    assert sorted(itertools.chain.from_iterable(map(itertools.chain.from_iterable, found))) == list(range(count))
    for ranges in found:
        assert all(len(one) for one in ranges)
        assert all(one.stop < other.start for one, other in itertools.pairwise(ranges))


@given(count=st.integers(1, 30), chunk_size=st.integers(1, 40), parts=st.integers(1, 5), order=ORDERS)
def test_parts_of_short_chunks_take_turns(count: int, chunk_size: int, parts: int, order: str) -> None:
    """No part is ahead of another by more than a block or two of one chunk and what is left of the last ones."""
    sizes = [sum(map(len, part)) for part in split_positions(split_chunks(count, chunk_size), parts, order)]
    assert max(sizes) - min(sizes) <= 2 * parts


@given(length=st.integers(1, 20), parts=st.integers(1, 8), count=st.integers(1, 4))
def test_zigzag_is_the_same_work_for_all(length: int, parts: int, count: int) -> None:
    """A position's work is the positions that it sees; in every chunk, whoever's turn it is."""
    chunks = split_chunks(count * 2 * parts * length, 2 * parts * length)
    found = split_positions(chunks, parts, "zigzag")
    for chunk in chunks:
        work = [sum(position + 1 for one in within(part, [chunk]) for position in one) for part in found]
        assert set(work) == {work[0]}


@given(
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=12, unique=True),
    others=st.lists(st.integers(0, 60), min_size=2, max_size=12, unique=True),
)
def test_within(cuts: list[int], others: list[int]) -> None:
    some, rest = ranges_of(cuts), ranges_of(others)
    assert set(itertools.chain(*within(some, rest))) == set(itertools.chain(*some)) & set(itertools.chain(*rest))


@given(cuts=st.lists(st.integers(0, 60), max_size=12, unique=True), first=st.integers(0, 40), count=st.integers(0, 40))
def test_rows_are_counted_through_all_ranges(cuts: list[int], first: int, count: int) -> None:
    ranges = ranges_of(cuts)
    found = rows_of(ranges, range(first, first + count))
    assert all(len(one) for one in found)
    assert [*itertools.chain(*found)] == [*itertools.chain(*ranges)][first : first + count]


def ranges_of(cuts: list[int]) -> Ranges:
    ordered = sorted(cuts)
    return tuple(range(start, stop) for start, stop in zip(ordered[::2], ordered[1::2], strict=False))
