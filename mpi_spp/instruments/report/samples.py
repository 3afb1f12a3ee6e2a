"""Repeated measurements: their middle and spread, and whether two sets of them differ."""

import random
import statistics
from collections.abc import Sequence
from typing import Any

_RESAMPLES = 2000


def describe(samples: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and the relative width of the middle half of the samples."""
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    middle = statistics.median(samples)
    return {
        "samples": list(samples),
        "median": middle,
        "min": min(samples),
        "max": max(samples),
        "spread": (high - low) / middle,
    }


def ratio_bounds(before: Sequence[float], after: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of median(after) / median(before) (Efron, 1979). The same samples give the same bounds."""
    generator = random.Random(0)

    def resampled_median(samples: Sequence[float]) -> float:
        return statistics.median(generator.choices(samples, k=len(samples)))

    ratios = sorted(resampled_median(after) / resampled_median(before) for _ in range(_RESAMPLES))
    tail = int(_RESAMPLES * (1 - confidence) / 2)
    return ratios[tail], ratios[-1 - tail]


def compare(before: dict[str, Any], after: dict[str, Any], tolerance: float) -> list[dict[str, Any]]:
    """The cases that two benchmark results share, each with its ratio (above 1 is faster) and a verdict.

    "slower" means that the whole interval of the ratio lies below 1 - tolerance, "faster" above 1 + tolerance.
    """
    earlier = {case["name"]: case for case in before["cases"]}
    rows = []
    for case in after["cases"]:
        if case["name"] in earlier:
            old = earlier[case["name"]]
            low, high = ratio_bounds(old["samples"], case["samples"])
            verdict = "slower" if high < 1 - tolerance else "faster" if low > 1 + tolerance else "same"
            ratio = case["median"] / old["median"]
            rows.append({"name": case["name"], "ratio": ratio, "low": low, "high": high, "verdict": verdict})
    return rows
