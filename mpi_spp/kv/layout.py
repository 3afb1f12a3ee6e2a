"""Which rank holds which part of the cache: a sync joins what a prefill leaves to what a decode wants."""

from dataclasses import dataclass
from enum import Enum


class Extent(Enum):
    """How much of one dim of the cache a rank holds."""

    WHOLE = "whole"
    SPLIT = "split"  # consecutive spans, one a rank, in rank order


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
LAYERS_SPLIT = KVLayout(layers=Extent.SPLIT)
