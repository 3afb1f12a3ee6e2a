"""The cost that is fitted to measured times."""

import itertools
import random
from dataclasses import astuple

import pytest

from mpi_spp.engine.costs import _LENGTHS, _POINTS, _read, fit, slowdowns, speed
from mpi_spp.parallel.schedule import Cost

TRUE = Cost(512, 3e-4, 1e-7, 4e-5, 1.5e-8)


def times_of(cost: Cost) -> dict[tuple[int, int], float]:
    return {(tokens, prefix): cost.seconds(prefix, tokens) for tokens, prefix in _POINTS}


def test_exact_times_give_the_cost_back() -> None:
    assert astuple(fit(times_of(TRUE))) == pytest.approx(astuple(TRUE))


@pytest.mark.parametrize("missing", list(itertools.product((0, 1), repeat=4)))
def test_no_rate_is_negative(missing: tuple[int, ...]) -> None:
    """Whatever noise makes of rates that are nothing."""
    longest, *rates = astuple(TRUE)
    cost = Cost(longest, *(rate * (1 - gone) for rate, gone in zip(rates, missing, strict=True)))
    noise = random.Random(0)
    fitted = fit({point: seconds * noise.uniform(0.9, 1.1) + 1e-9 for point, seconds in times_of(cost).items()})
    assert min(astuple(fitted)) >= 0
    assert fitted.seconds(1000, 64) == pytest.approx(cost.seconds(1000, 64), rel=0.2, abs=1e-8)


def test_lengths_that_are_slower_again_are_not_taken() -> None:
    """Nor do they bend the cost of those that are."""
    times = {(x, prefix): seconds * (2 if x > 128 else 1) for (x, prefix), seconds in times_of(TRUE).items()}
    assert astuple(fit(times)) == pytest.approx((128, *astuple(TRUE)[1:]))


def test_times_that_another_program_disturbed_do_not_count() -> None:
    times = {point: seconds * (1.5 if point == (64, 0) else 1) for point, seconds in times_of(TRUE).items()}
    assert astuple(fit(times)) == pytest.approx(astuple(TRUE))


@pytest.mark.parametrize("kept", [None, [], "abc", [1, 2], [1, 2, 3, 4, "x"], [0, 1, 1, 1, 1], [5, 1, 1, -1, 1]])
def test_what_is_no_cost_is_measured_again(kept: object) -> None:
    assert _read(kept) is None


def test_a_kept_cost_is_read() -> None:
    assert _read(list(astuple(TRUE))) == TRUE
    assert max(_LENGTHS) == TRUE.longest


def test_a_rank_far_behind_its_like_is_slower() -> None:
    assert slowdowns([100.0, 96.0, 50.0], "aaa") == [1.0, 1.0, 2.0]


def test_ranks_of_different_kinds_are_not_compared() -> None:
    """Their costs were measured apart."""
    assert slowdowns([100.0, 50.0, 24.0], "abb") == [1.0, 1.0, pytest.approx(50 / 24)]


def test_a_speed_is_measured() -> None:
    assert speed() > 1
