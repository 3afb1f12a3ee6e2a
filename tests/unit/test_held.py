"""Which positions a part of a cache holds, and in which slot: against counting them one by one."""

from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.parallel.layout import EVERYTHING, Held
from mpi_spp.parallel.partition import CONTEXT_SPLITS, split_chunks, split_positions


@given(
    length=st.integers(1, 60),
    chunk_size=st.integers(1, 70),
    parts=st.integers(1, 6),
    order=st.sampled_from(CONTEXT_SPLITS),
    answer=st.integers(0, 20),
)
def test_slots_count_what_is_held(length: int, chunk_size: int, parts: int, order: str, answer: int) -> None:
    split = split_positions(split_chunks(length, chunk_size), parts, order)
    holders = [Held(ranges, length, part, parts) for part, ranges in enumerate(split)]
    for position in range(length + answer):
        owners = [held for held in holders if held.slot(position + 1) > held.slot(position)]
        assert len(owners) == 1
        assert any(position in one for one in owners[0].ranges) == (position < length)
    for held in holders:
        assert held.slot(0) == 0
        assert held.room(length + answer) == held.slot(length + answer) + (parts > 1)
        assert held.slots(range(3, length)) == range(held.slot(3), held.slot(length))
    grown = [held.slot(length + answer) - held.slot(length) for held in holders]
    assert max(grown) - min(grown) <= 1


def test_a_whole_cache_has_a_slot_for_each_position() -> None:
    for held in (EVERYTHING, Held((range(9),), 9)):
        assert [held.slot(position) for position in range(20)] == list(range(20))
        assert held.room(20) == 20
