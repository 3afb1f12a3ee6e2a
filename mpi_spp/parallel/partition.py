"""Who gets what: pure functions that hand out all items, once each, in order, for any count of ranks."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

Ranges = tuple[range, ...]  # of items in ascending order, no two of which overlap

CONTEXT_SPLITS = ("zigzag", "contiguous")


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


def split_positions(chunks: Sequence[range], parts: int, order: str) -> list[Ranges]:
    """The positions of each part; every chunk is split over all of them. `order`: one of CONTEXT_SPLITS.

    "contiguous": one stretch of a chunk each. Behind a causal mask the last part then has most to do. "zigzag": of 2P
    blocks part r has r and 2P-1-r, which is the same work for all (Llama 3: Dubey et al., 2024). From chunk to chunk
    the parts take turns, so that those that get less than others do not always.
    """
    found: list[list[range]] = [[] for _ in range(parts)]
    for number, chunk in enumerate(chunks):
        blocks = [_behind(chunk.start, block) for block in _blocks(len(chunk), parts, order)]
        for part, ranges in enumerate(found):
            turn = (part + number) % parts
            ranges += [blocks[turn]] if order == "contiguous" else [blocks[turn], blocks[2 * parts - 1 - turn]]
    return [_joined(ranges) for ranges in found]


def within(ranges: Sequence[range], others: Iterable[range]) -> Ranges:
    """What ascending ranges have in common with ascending others."""
    found = []
    for other in others:
        first = bisect_right(ranges, other.start, key=lambda one: one.stop)
        behind = bisect_left(ranges, other.stop, key=lambda one: one.start)
        found += [range(max(one.start, other.start), min(one.stop, other.stop)) for one in ranges[first:behind]]
    return tuple(one for one in found if len(one))


def rows_of(ranges: Iterable[range], rows: range) -> Ranges:
    """Of all positions in ascending ranges those of these numbers, counted from 0."""
    found, before = [], 0
    for one in ranges:
        shift = one.start - before
        found.append(range(max(one.start, shift + rows.start), min(one.stop, shift + rows.stop)))
        before += len(one)
    return tuple(part for part in found if len(part))


def _blocks(count: int, parts: int, order: str) -> list[range]:
    return split_evenly(count, parts if order == "contiguous" else 2 * parts)


def _behind(start: int, block: range) -> range:
    return range(start + block.start, start + block.stop)


def _joined(ranges: Iterable[range]) -> Ranges:
    """Without empty ones, and neighbours as one."""
    joined: list[range] = []
    for one in ranges:
        if joined and len(one) and joined[-1].stop == one.start:
            joined[-1] = range(joined[-1].start, one.stop)
        elif len(one):
            joined.append(one)
    return tuple(joined)
