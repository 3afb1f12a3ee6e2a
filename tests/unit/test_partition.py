"""Every item is handed out once, in order, for any count of items and ranks."""

from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.partition import split_as, split_chunks, split_evenly


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
