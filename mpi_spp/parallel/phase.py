"""What every rank does in a phase, prefill or decode: pure values, the same on all ranks, known before loading."""

from collections.abc import Sequence
from dataclasses import dataclass

from mpi_spp.parallel.layout import Extent, Held, KVLayout, Region
from mpi_spp.parallel.mesh import Place
from mpi_spp.parallel.partition import Ranges
from mpi_spp.parallel.shares import Share, kv_heads_of


@dataclass(frozen=True)
class Phase:
    """By rank: its place, its layers, which of the model's shares of each, and the part of the cache that it keeps.

    Where the ranks of a stage split the tokens, `heads` has the share whose heads each of its shards attends with.
    """

    places: list[Place]
    spans: list[range]
    shares: list[range]
    regions: list[Region]
    heads: Sequence[Share] = ()

    @property
    def layout(self) -> KVLayout:
        """How the cache is spread."""
        return layout_of(self.places[0])

    @property
    def num_parts(self) -> int:
        """Of the positions."""
        return self.places[0].num_parts

    @property
    def last(self) -> int:
        """The first of the ranks that compute the last layers."""
        return next(rank for rank, place in enumerate(self.places) if place.stage == place.num_stages - 1)


def layout_of(place: Place) -> KVLayout:
    """What a phase in which ranks have such places leaves or wants."""
    counts = (place.num_stages, place.num_shards, place.num_parts)
    return KVLayout(*(Extent.SPLIT if count > 1 else Extent.WHOLE for count in counts))


def held_by(place: Place, positions: Ranges, num_tokens: int) -> Held:
    """What a rank at such a place holds: these of the prompt's positions, and its part of those behind them."""
    return Held(positions, num_tokens, place.part, place.num_parts)


def plan_phase(
    places: Sequence[Place], layer_spans: Sequence[range], shares: Sequence[Share], heads: Sequence[Share] = ()
) -> Phase:
    """`layer_spans`: the layers of each stage; `shares`: the finest ones, a multiple of the weights' shards in number.

    `heads`: one for each shard, where the ranks of a stage split the tokens.
    """
    parts = heads or shares  # by which the cache is split
    blocks = [_block(place, len(parts)) for place in places]
    spans = [layer_spans[place.stage] for place in places]
    regions = [
        Region(span, kv_heads_of(parts[block.start : block.stop]), _made(parts, block), place.part, place.num_parts)
        for span, block, place in zip(spans, blocks, places, strict=True)
    ]
    return Phase(list(places), spans, [range(len(shares))] * len(places) if heads else blocks, regions, heads)


def _block(place: Place, count: int) -> range:
    size = count // place.num_shards
    return range(place.shard * size, (place.shard + 1) * size)


def _made(shares: Sequence[Share], block: range) -> range:
    """The heads of a block that no share before it has: several shares may keep the same one."""
    mine = kv_heads_of(shares[block.start : block.stop])
    before = next((shares[at].kv_heads.stop for at in reversed(range(block.start)) if len(shares[at].kv_heads)), 0)
    return range(max(mine.start, before), mine.stop) if len(mine) else mine


def needed(phases: Sequence[Phase], rank: int) -> dict[int, list[int]]:
    """The shares of each layer that a rank must hold for these phases."""
    held: dict[int, set[int]] = {}
    for phase in phases:
        for layer in phase.spans[rank]:
            held.setdefault(layer, set()).update(phase.shares[rank])
    return {layer: sorted(held[layer]) for layer in sorted(held)}
