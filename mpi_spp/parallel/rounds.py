"""When which part of the cache is exchanged: known to all ranks beforehand, so that only tensors travel."""

from dataclasses import dataclass, replace

from mpi_spp.parallel.layout import Region, common
from mpi_spp.parallel.partition import Ranges, within

ALL_LAYERS = 1 << 30  # more layers than any stage has: "all layers of this tick are done"


@dataclass(frozen=True)
class Block:
    """A part of the cache: some key/value heads of some layers at some positions."""

    layers: range
    heads: range
    positions: Ranges

    def __len__(self) -> int:
        return len(self.layers) * len(self.heads) * sum(map(len, self.positions))

    def within(self, region: Region, positions: Ranges) -> "Block":
        """The part of it that belongs into a region at these positions."""
        heads = common(self.heads, region.heads)
        return Block(common(self.layers, region.layers), heads, within(self.positions, positions))


@dataclass(frozen=True)
class Round:
    """One exchange: block r is made by rank r; it may be empty.

    `ready_at` = (tick, layers done in it): every rank starts the round when it has come that far.
    """

    ready_at: tuple[int, int]
    blocks: tuple[Block, ...]


def plan_rounds(
    granularity: str, regions: list[Region], stages: list[int], chunks: list[range], positions: list[Ranges]
) -> list[Round]:
    """All rounds of a prefill in the order in which every rank starts them.

    In tick t a rank of stage s computes chunk t-s, of which it has `positions`, for the layers of its region.
    Granularity: "layer" (a round after every layer of a tick), "chunk" (one round a tick) or "prefill" (one round at
    the end).
    """
    ticks = range(len(chunks) + max(stages))
    if granularity == "prefill":
        return [Round((ticks[-1], ALL_LAYERS), _blocks(regions, positions))]
    made = [
        [_made_in(tick - stage, chunks, mine) for stage, mine in zip(stages, positions, strict=True)] for tick in ticks
    ]
    if granularity == "chunk":
        return [Round((tick, ALL_LAYERS), _blocks(regions, made[tick])) for tick in ticks]
    deepest = max(len(region.layers) for region in regions)
    one_layer = [[replace(of, layers=of.layers[index : index + 1]) for of in regions] for index in range(deepest)]
    return [
        Round((tick, index + 1), _blocks(one_layer[index], made[tick])) for tick in ticks for index in range(deepest)
    ]


def _blocks(regions: list[Region], positions: list[Ranges]) -> tuple[Block, ...]:
    return tuple(Block(of.layers, of.made, some) for of, some in zip(regions, positions, strict=True))


def _made_in(number: int, chunks: list[range], positions: Ranges) -> Ranges:
    """What a rank makes of a chunk: nothing where it has not come yet or is past."""
    return within(positions, chunks[number : number + 1]) if number >= 0 else ()
