"""Prompts and sequences under way take turns, and no rank could decide otherwise than another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.engine.scheduler import Scheduler

COUNTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)  # prefilling and decoding, turn by turn


@given(COUNTS, st.one_of(st.none(), st.integers(1, 4)))
def test_who_has_work_gets_a_turn(counts: list[tuple[int, int]], ticks: int | None) -> None:
    scheduler, waited = Scheduler(ticks=ticks), 0
    for prefilling, decoding in counts:
        prefills = scheduler.prefills_next(prefilling, decoding)
        assert prefilling if prefills else not prefilling or decoding
        waited = waited + 1 if decoding and prefills else 0
        assert ticks is None or waited <= 1
        if ticks is None:  # prompts first
            assert prefills == (prefilling > 0)


@given(COUNTS, st.one_of(st.none(), st.integers(1, 4)))
def test_all_ranks_decide_alike(counts: list[tuple[int, int]], ticks: int | None) -> None:
    one, other = Scheduler(ticks=ticks), Scheduler(ticks=ticks)
    assert [one.prefills_next(*now) for now in counts] == [other.prefills_next(*now) for now in counts]


@given(st.integers(1, 9), st.integers(0, 9))
def test_no_more_come_than_there_is_room_for(most: int, under_way: int) -> None:
    assert Scheduler(most).room(under_way) == max(0, most - under_way)
    assert Scheduler().room(under_way) is None
    assert Scheduler(most).room(under_way, has_to_wait=True) == (0 if under_way else most)


def test_who_comes_together_may_have_to_be_decoded_together() -> None:
    assert Scheduler().join_now(1) and Scheduler(together=True).join_now(0)
    assert not Scheduler(together=True).join_now(1)


@pytest.mark.parametrize("given_wrong", [{"most": 0}, {"ticks": 0}])
def test_none_of_either_is_refused(given_wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Scheduler(**given_wrong)
