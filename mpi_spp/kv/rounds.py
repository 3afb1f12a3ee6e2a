"""When which part of the cache is exchanged: known to all ranks beforehand, so that only tensors travel."""

from dataclasses import dataclass

from mpi_spp.kv.layout import Region, common

ALL_LAYERS = 1 << 30  # more layers than any stage has: "all layers of this tick are done"


@dataclass(frozen=True)
class Block:
    """A part of the cache: some key/value heads of some layers at some positions."""

    layers: range
    heads: range
    positions: range

    def __len__(self) -> int:
        return len(self.layers) * len(self.heads) * len(self.positions)

    def within(self, region: Region) -> "Block":
        """The part of it that belongs into a region."""
        return Block(common(self.layers, region.layers), common(self.heads, region.heads), self.positions)


@dataclass(frozen=True)
class Round:
    """One exchange: block r is made by rank r; it may be empty.

    `ready_at` = (tick, layers done in it): every rank starts the round when it has come that far.
    """

    ready_at: tuple[int, int]
    blocks: tuple[Block, ...]


def plan_rounds(granularity: str, regions: list[Region], stages: list[int], chunks: list[range]) -> list[Round]:
    """All rounds of a prefill in the order in which every rank starts them.

    In tick t a rank of stage s computes chunk t-s for the layers of its region. Granularity: "layer" (a round after
    every layer of a tick), "chunk" (one round a tick) or "prefill" (one round at the end).
    """
    ticks = range(len(chunks) + max(stages))
    if granularity == "prefill":
        whole = range(chunks[0].start, chunks[-1].stop)
        return [Round((ticks[-1], ALL_LAYERS), tuple(Block(of.layers, of.made, whole) for of in regions))]
    if granularity == "chunk":
        return [Round((tick, ALL_LAYERS), _blocks_of_tick(tick, regions, stages, chunks)) for tick in ticks]
    deepest = max(len(region.layers) for region in regions)
    return [
        Round((tick, index + 1), _blocks_of_tick(tick, [_one_layer(of, index) for of in regions], stages, chunks))
        for tick in ticks
        for index in range(deepest)
    ]


def _one_layer(region: Region, index: int) -> Region:
    return Region(region.layers[index : index + 1], region.heads, region.made)


def _blocks_of_tick(tick: int, regions: list[Region], stages: list[int], chunks: list[range]) -> tuple[Block, ...]:
    """What each rank makes in this tick; nothing where its chunk has not come yet or is past."""
    return tuple(
        Block(of.layers, of.made, chunks[tick - stage] if 0 <= tick - stage < len(chunks) else range(0))
        for of, stage in zip(regions, stages, strict=True)
    )
