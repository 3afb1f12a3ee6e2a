"""What a message costs, in two numbers: seconds(n) = alpha + n / beta (Hockney, 1994)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hockney:
    """A fitted line. `deviation`: the mean relative distance of the points from it."""

    alpha_s: float
    seconds_per_byte: float
    deviation: float

    @property
    def bytes_per_s(self) -> float | None:
        """beta; None where the time does not grow with the size."""
        return 1 / self.seconds_per_byte if self.seconds_per_byte else None


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Hockney | None:
    """The line of the least mean |alpha + n / beta - t| / t, with neither part below 0; None for fewer than two sizes.

    Relative, since the times span four orders of magnitude; absolute and not squared, since single points may lie far
    off. The least of such a sum (a linear programme) lies on a line through two points, or through one where a part is
    0: there are few enough to try them all.
    """
    points = list(zip(sizes, seconds, strict=True))
    if len(set(sizes)) < 2:
        return None
    lines = [(t, 0.0) for _, t in points] + [(0.0, t / n) for n, t in points]
    for (n, t), (other_n, other_t) in itertools.combinations(points, 2):
        if n != other_n:
            slope = (other_t - t) / (other_n - n)
            lines.append((t - slope * n, slope))
    candidates = [Hockney(*line, _deviation(line, points)) for line in lines if min(line) >= 0]
    return min(candidates, key=lambda line: line.deviation)


def _deviation(line: tuple[float, float], points: Sequence[tuple[int, float]]) -> float:
    alpha, slope = line
    return sum(abs(alpha + slope * n - t) / t for n, t in points) / len(points)
