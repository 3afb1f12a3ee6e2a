"""How evenly experts and ranks were used."""

from typing import Any


def expert_load(ranks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pairs of a token and an expert in the last prefill, over all layers: by expert, and computed by each rank.

    Of an expert that several ranks share, each counts the pair. `imbalance` is the most over the mean. None for a model
    without experts.
    """
    loads = [rank["experts"] for rank in ranks]
    if None in loads:
        return None
    by_expert = [sum(counts) for counts in zip(*(load["routed"] for load in loads), strict=True)]
    by_rank = [sum(load["computed"]) for load in loads]
    return {
        "by_expert": by_expert,
        "by_rank": by_rank,
        "imbalance": {"experts": _imbalance(by_expert), "ranks": _imbalance(by_rank)},
    }


def load_line(load: dict[str, Any]) -> str:
    """What `expert_load` has found, in words."""
    by_expert, most = load["by_expert"], load["imbalance"]
    busiest = by_expert.index(max(by_expert))
    return (
        f"{sum(by_expert):,} pairs of a token and an expert; most over mean: experts {most['experts']:.2f}"
        f" (number {busiest}), ranks {most['ranks']:.2f}"
    )


def _imbalance(counts: list[int]) -> float:
    return max(counts) * len(counts) / max(1, sum(counts))
