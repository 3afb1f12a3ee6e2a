"""Latency and bandwidth from times of messages: noise and single bad points must not lead astray."""

import random

import pytest

from mpi_spp.instruments.report.hockney import Hockney, fit

SIZES = [1024 * 4**step for step in range(9)]
ALPHA, BETA = 5e-6, 8e9


def times(alpha: float = ALPHA, beta: float = BETA, noise: float = 0.0, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [(alpha + size / beta) * (1 + generator.uniform(-noise, noise)) for size in SIZES]


def found(seconds: list[float]) -> Hockney:
    line = fit(SIZES, seconds)
    assert line is not None
    return line


def test_a_perfect_line() -> None:
    line = found(times())
    assert (line.alpha_s, line.bytes_per_s) == (pytest.approx(ALPHA), pytest.approx(BETA))
    assert line.deviation == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_noise(seed: int) -> None:
    line = found(times(noise=0.1, seed=seed))
    assert line.alpha_s == pytest.approx(ALPHA, rel=0.12)
    assert line.bytes_per_s == pytest.approx(BETA, rel=0.12)
    assert 0 < line.deviation < 0.1


@pytest.mark.parametrize("bad", range(len(SIZES)))
def test_one_point_far_off(bad: int) -> None:
    seconds = times(noise=0.02)
    seconds[bad] *= 8
    line = found(seconds)
    assert line.alpha_s == pytest.approx(ALPHA, rel=0.05)
    assert line.bytes_per_s == pytest.approx(BETA, rel=0.05)


def test_latency_counts_as_much_as_bandwidth() -> None:
    """Least squares of the seconds themselves would see the largest message only."""
    assert found(times(alpha=1e-7, noise=0.01)).alpha_s == pytest.approx(1e-7, rel=0.2)


def test_neither_part_is_negative() -> None:
    """Caches make small messages faster than the line through large ones; a barrier's cost hides the size."""
    convex = found([1e-3 * (size / SIZES[-1]) ** 2 for size in SIZES])
    assert convex.alpha_s >= 0 and convex.seconds_per_byte >= 0
    falling = found([1e-5 / (1 + place) for place in range(len(SIZES))])
    assert falling.alpha_s > 0 and falling.bytes_per_s is None


@pytest.mark.parametrize("sizes", [[], [8], [8, 8]])
def test_a_line_needs_two_sizes(sizes: list[int]) -> None:
    assert fit(sizes, [1e-6] * len(sizes)) is None
