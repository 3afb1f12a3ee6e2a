"""When which part of the cache is exchanged: known to all ranks beforehand, so that only tensors travel."""

from dataclasses import dataclass

ALL_LAYERS = 1 << 30  # more layers than any stage has: "all layers of this tick are done"


@dataclass(frozen=True)
class Block:
    """A part of the cache: some layers at some positions."""

    layers: range
    positions: range

    def __len__(self) -> int:
        return len(self.layers) * len(self.positions)


@dataclass(frozen=True)
class Round:
    """One exchange: block r is made by rank r and goes to all others; it may be empty.

    `ready_at` = (tick, layers done in it): every rank starts the round when it has come that far.
    """

    ready_at: tuple[int, int]
    blocks: tuple[Block, ...]


def plan_rounds(granularity: str, layer_spans: list[range], chunks: list[range]) -> list[Round]:
    """All rounds of a pipelined prefill in the order in which every rank starts them.

    In tick t stage s computes chunk t-s for the layers `layer_spans[s]`. Granularity: "layer" (a round after every
    layer of a tick), "chunk" (one round a tick) or "prefill" (one round at the end).
    """
    ticks = range(len(chunks) + len(layer_spans) - 1)
    if granularity == "prefill":
        whole = range(chunks[0].start, chunks[-1].stop)
        return [Round((ticks[-1], ALL_LAYERS), tuple(Block(span, whole) for span in layer_spans))]
    if granularity == "chunk":
        return [Round((tick, ALL_LAYERS), _blocks_of_tick(tick, layer_spans, chunks)) for tick in ticks]
    deepest = max(map(len, layer_spans))
    return [
        Round((tick, index + 1), _blocks_of_tick(tick, [span[index : index + 1] for span in layer_spans], chunks))
        for tick in ticks
        for index in range(deepest)
    ]


def _blocks_of_tick(tick: int, layer_spans: list[range], chunks: list[range]) -> tuple[Block, ...]:
    """What each stage makes in this tick; nothing where its chunk has not come yet or is past."""
    return tuple(
        Block(span, chunks[tick - stage] if 0 <= tick - stage < len(chunks) else range(0))
        for stage, span in enumerate(layer_spans)
    )
