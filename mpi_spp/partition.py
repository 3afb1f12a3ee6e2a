"""Who gets what: pure functions that hand out all items, once each, in order, for any count of ranks."""

import itertools


def split_evenly(count: int, parts: int) -> list[range]:
    """Split `count` items over `parts` ranks; the first ranks get one more when it does not divide."""
    size, extra = divmod(count, parts)
    starts = [part * size + min(part, extra) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def split_chunks(count: int, chunk_size: int) -> list[range]:
    """Cut `count` positions into chunks of `chunk_size`; the last one takes what is left."""
    return [range(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
