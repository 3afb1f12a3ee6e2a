"""Which rank holds which part of the cache: a sync joins what a prefill leaves to what a decode wants."""

from dataclasses import dataclass
from enum import Enum


class Extent(Enum):
    """How much of one dim of the cache a rank holds."""

    WHOLE = "whole"
    SPLIT = "split"  # consecutive spans over the ranks


@dataclass(frozen=True)
class KVLayout:
    """The extent of each dim of the cache on a rank."""

    layers: Extent = Extent.WHOLE
    heads: Extent = Extent.WHOLE
    positions: Extent = Extent.WHOLE

    def __str__(self) -> str:
        split = [name for name in ("layers", "heads", "positions") if getattr(self, name) is Extent.SPLIT]
        return f"{' and '.join(split)} split" if split else "whole"


WHOLE = KVLayout()


@dataclass(frozen=True)
class Region:
    """The part of the cache that a rank holds: layers, and key/value heads of each.

    Of these heads it gives `made` to others: the same head may be held by several ranks, and one of them gives it.
    """

    layers: range
    heads: range
    made: range

    def is_within(self, other: "Region") -> bool:
        """Whether the other one holds all that this one does."""
        mine, theirs = ((of.layers, of.heads) for of in (self, other))
        return all(common(part, whole) == part for part, whole in zip(mine, theirs, strict=True))


def common(a: range, b: range) -> range:
    """What two ranges of step 1 have in common; empty ranges have nothing."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return range(start, max(start, stop))
