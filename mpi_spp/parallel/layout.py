"""Which rank holds which part of the cache: a sync joins what a prefill leaves to what a decode wants."""

import itertools
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from mpi_spp.parallel.partition import Ranges


class Extent(Enum):
    """How much of one dim of the cache a rank holds."""

    WHOLE = "whole"
    SPLIT = "split"  # over the ranks


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
    """The part of the cache that a rank holds: layers, key/value heads of each, and a part of the positions.

    Of these heads it gives `made` to others: the same head may be held by several ranks, and one of them gives it.
    Which positions make up a part depends on the prompt's length: see `Held`.
    """

    layers: range
    heads: range
    made: range
    part: int = 0
    num_parts: int = 1

    def is_within(self, other: "Region") -> bool:
        """Whether the other one holds all that this one does."""
        mine, theirs = ((of.layers, of.heads) for of in (self, other))
        positions = other.num_parts == 1 or (self.part, self.num_parts) == (other.part, other.num_parts)
        return positions and all(common(part, whole) == part for part, whole in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Held:
    """The positions that a cache holds, in ascending order, one slot each.

    Of the prompt these ranges; of the positions from `end` on every `num_parts`th, this part's turn coming after
    those of the lower ones: so the parts grow evenly.
    """

    ranges: Ranges = ()
    end: int = 0
    part: int = 0
    num_parts: int = 1

    def slot(self, position: int) -> int:
        """How many positions before this one are held: where it lies, if it is held, else the next free slot."""
        taken = max(0, -((self.end + self.part - position) // self.num_parts))
        after = bisect_left(self._starts, position)
        if after:
            last = self.ranges[after - 1]
            taken += self._slots[after - 1] + min(position, last.stop) - last.start
        return taken

    def room(self, stop: int) -> int:
        """Slots for all positions before `stop`; one more where others are stored that belong to another part."""
        return self.slot(stop) + (self.num_parts > 1)

    def slots(self, positions: range) -> range:
        """Of those that are held."""
        return range(self.slot(positions.start), self.slot(positions.stop))

    @cached_property
    def _starts(self) -> list[int]:
        return [one.start for one in self.ranges]

    @cached_property
    def _slots(self) -> list[int]:
        """Of the first position of each range."""
        return [0, *itertools.accumulate(map(len, self.ranges))]


EVERYTHING = Held()


def common(a: range, b: range) -> range:
    """What two ranges of step 1 have in common; empty ranges have nothing."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return range(start, max(start, stop))
