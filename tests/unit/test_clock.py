"""Clocks that are apart are brought together from the times of messages to and fro."""

import random

import pytest

from mpi_spp.comm.clock import ClockOffset, CommonClock, RoundTrip, offset_of


def trips(ahead: int, start: int, seed: int = 0) -> list[RoundTrip]:
    """Ways of 2 us each, one of them delayed by noise of up to 200 us nearly always."""
    noise, found = random.Random(seed), []
    for number in range(64):
        there, back = (2_000 + int(noise.expovariate(1e-4)) * (noise.random() < 0.9) for _ in range(2))
        sent = start + number * 1_000_000
        found.append(RoundTrip(sent, sent + there + ahead, sent + there + 500 + ahead, sent + there + 500 + back))
    return found


@pytest.mark.parametrize("ahead", [0, 7_654_321_012, -123_456])
@pytest.mark.parametrize("seed", range(5))
def test_a_known_offset_is_found(ahead: int, seed: int) -> None:
    found = offset_of(trips(ahead, 5_000_000_000, seed))
    assert abs(found.ahead_ns - ahead) <= found.round_trip_ns // 2
    assert found.round_trip_ns < 6_000


def test_uneven_ways_are_within_what_is_said() -> None:
    found = offset_of([RoundTrip(0, 1_000 + 9_000, 1_000 + 9_500, 11_500)])  # 9 us there, 2 us back, 1 us ahead
    assert found.round_trip_ns == 11_000
    assert abs(found.ahead_ns - 1_000) <= 5_500


def test_drift_is_taken_out() -> None:
    """A clock that gains 50 millionths, over a minute."""

    def shown(ns: int) -> int:
        return round(ns * 1.00005) + 3_000_000

    first, last = (ClockOffset(shown(at), shown(at) - at, 0) for at in (1_000_000_000, 61_000_000_000))
    clock = CommonClock(first, last, origin_ns=1_000_000_000)
    for at in (1_000_000_000, 1_000_000_500, 31_000_000_000, 61_000_000_000):
        assert abs(clock(shown(at)) - (at - 1_000_000_000)) <= 2


def test_comparisons_at_one_moment_say_nothing_of_drift() -> None:
    same = ClockOffset(500, 100, 0)
    assert CommonClock(same, same, 0)(900) == 800
