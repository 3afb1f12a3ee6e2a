"""The plan of a KV sync: everything is sent once, by the rank that makes it, and not before it is made."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from layer_shape import LayerShape

from mpi_spp.config import GRANULARITIES
from mpi_spp.parallel.layout import Region
from mpi_spp.parallel.mesh import Mesh, positions, stages
from mpi_spp.parallel.partition import Ranges, split_chunks, split_evenly, split_positions
from mpi_spp.parallel.phase import Phase, plan_phase
from mpi_spp.parallel.rounds import ALL_LAYERS, Block, Round, plan_rounds
from mpi_spp.parallel.shares import split_layer

Moment = tuple[int, int]  # tick, layers of it that are done


@dataclass(frozen=True)
class Case:
    """A prompt of some length on some ranks, each with a stage of layers and a share of their heads."""

    granularity: str
    num_heads: int
    phase: Phase
    length: int
    chunks: list[range]

    @property
    def stages(self) -> list[int]:
        return [place.stage for place in self.phase.places]

    def rounds(self) -> list[Round]:
        return plan_rounds(self.granularity, self.phase.regions, self.stages, self.chunks, self.positions)

    @property
    def positions(self) -> list[Ranges]:
        """By rank, those that it computes."""
        parts = split_positions(self.chunks, self.phase.num_parts, "zigzag")
        return [parts[place.part] for place in self.phase.places]

    def made_at(self, rank: int, layer: int, position: int) -> Moment:
        """When a rank is done with a layer for this position: chunk c reaches stage s in tick c + s."""
        chunk = next(number for number, chunk in enumerate(self.chunks) if position in chunk)
        return chunk + self.stages[rank], layer - self.phase.spans[rank].start + 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_layers, num_heads = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    mesh = Mesh(pp=draw(st.integers(1, num_layers)), tp=draw(st.integers(1, 7)))
    shape = LayerShape(8, 11, 3 * num_heads, num_heads, 2)
    place = draw(st.sampled_from([stages, positions]))
    places = [place(mesh, rank) for rank in range(mesh.size)]
    phase = plan_phase(places, split_evenly(num_layers, places[0].num_stages), split_layer(shape, places[0].num_shards))
    length = draw(st.integers(1, 40))
    chunks = split_chunks(length, draw(st.integers(1, 50)))
    return Case(draw(st.sampled_from(GRANULARITIES)), num_heads, phase, length, chunks)


def parts_of(round_: Round) -> Iterator[tuple[int, int, int, int]]:
    """Everything in a round as (rank, layer, head, position)."""
    for rank, block in enumerate(round_.blocks):
        of_block = itertools.chain(*block.positions)
        for layer, head, position in itertools.product(block.layers, block.heads, of_block):
            yield rank, layer, head, position


@given(cases())
def test_everything_is_sent_once_by_a_rank_that_makes_it(case: Case) -> None:
    sent = [part for round_ in case.rounds() for part in parts_of(round_)]
    num_layers = max(span.stop for span in case.phase.spans)
    everything = itertools.product(range(num_layers), range(case.num_heads), range(case.length))
    assert sorted(part[1:] for part in sent) == list(everything)
    for rank, layer, head, position in sent:
        assert layer in case.phase.spans[rank] and head in case.phase.regions[rank].heads
        assert any(position in some for some in case.positions[rank])
    assert all(len(round_.blocks) == len(case.phase.spans) for round_ in case.rounds())


def test_a_region_takes_all_of_a_block_that_it_holds() -> None:
    """Also heads that another rank gives on."""
    block = Block(range(2, 6), range(1, 4), (range(5), range(8, 9)))
    region = Region(range(4, 9), range(2, 5), made=range(3, 5))
    assert block.within(region, (range(3, 20),)) == Block(range(4, 6), range(2, 4), (range(3, 5), range(8, 9)))


@given(cases())
def test_nothing_is_sent_before_it_is_made(case: Case) -> None:
    for round_ in case.rounds():
        for rank, layer, _, position in parts_of(round_):
            assert case.made_at(rank, layer, position) <= round_.ready_at


@given(cases())
def test_rounds_start_in_order_and_all_of_them(case: Case) -> None:
    """`Exchange` starts them from the front, and the last tick must release the last one."""
    moments = [round_.ready_at for round_ in case.rounds()]
    assert moments == sorted(moments)
    assert moments[-1] <= (len(case.chunks) + max(case.stages) - 1, ALL_LAYERS)


@given(cases().filter(lambda case: case.granularity != "prefill"))
def test_a_round_is_not_held_back(case: Case) -> None:
    """It starts in the tick that makes it; with granularity "layer" as soon as the layer is done."""
    for round_ in case.rounds():
        for rank, layer, _, position in parts_of(round_):
            tick, layers_done = case.made_at(rank, layer, position)
            assert round_.ready_at == (tick, layers_done if case.granularity == "layer" else ALL_LAYERS)


@given(cases().filter(lambda case: case.granularity != "layer"))
def test_a_coarser_granularity_makes_fewer_rounds(case: Case) -> None:
    ticks = len(case.chunks) + max(case.stages)
    assert len(case.rounds()) == (1 if case.granularity == "prefill" else ticks)
