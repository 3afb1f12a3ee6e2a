"""Who gets what: pure functions that hand out all items, once each, in order, for any count of ranks."""

import itertools
from collections.abc import Sequence


def split_evenly(count: int, parts: int) -> list[range]:
    """Split `count` items over `parts` ranks; the first ranks get one more when it does not divide."""
    size, extra = divmod(count, parts)
    return split_as([size + (part < extra) for part in range(parts)])


def split_as(counts: Sequence[int]) -> list[range]:
    """Give each rank as many items as `counts` says."""
    ends = [0, *itertools.accumulate(counts)]
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


def split_chunks(count: int, chunk_size: int) -> list[range]:
    """Cut `count` positions into chunks of `chunk_size`; the last one takes what is left."""
    return [range(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
