"""The plan of a KV sync: everything is sent once, by the rank that makes it, and not before it is made."""

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.config import GRANULARITIES
from mpi_spp.kv.rounds import ALL_LAYERS, Round, plan_rounds
from mpi_spp.partition import split_chunks, split_evenly

Moment = tuple[int, int]  # tick, layers of it that are done


@dataclass(frozen=True)
class Case:
    """A prompt of some length on some ranks."""

    granularity: str
    num_layers: int
    spans: list[range]
    length: int
    chunks: list[range]

    def rounds(self) -> list[Round]:
        return plan_rounds(self.granularity, self.spans, self.chunks)

    def made_at(self, layer: int, position: int) -> Moment:
        """When the rank that has the layer is done with it for this position: chunk c reaches rank s in tick c + s."""
        rank = next(rank for rank, span in enumerate(self.spans) if layer in span)
        chunk = next(number for number, chunk in enumerate(self.chunks) if position in chunk)
        return chunk + rank, layer - self.spans[rank].start + 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_layers = draw(st.integers(1, 12))
    spans = split_evenly(num_layers, draw(st.integers(1, num_layers)))
    length = draw(st.integers(1, 40))
    chunks = split_chunks(length, draw(st.integers(1, 50)))
    return Case(draw(st.sampled_from(GRANULARITIES)), num_layers, spans, length, chunks)


def parts_of(round_: Round) -> Iterator[tuple[int, int, int]]:
    """Everything in a round as (rank, layer, position)."""
    for rank, block in enumerate(round_.blocks):
        for layer in block.layers:
            for position in block.positions:
                yield rank, layer, position


@given(cases())
def test_everything_is_sent_once_by_the_rank_that_makes_it(case: Case) -> None:
    sent = [part for round_ in case.rounds() for part in parts_of(round_)]
    expected = [
        (rank, layer, position)
        for rank, span in enumerate(case.spans)
        for layer in span
        for position in range(case.length)
    ]
    assert sorted(sent) == expected
    assert all(len(round_.blocks) == len(case.spans) for round_ in case.rounds())


@given(cases())
def test_nothing_is_sent_before_it_is_made(case: Case) -> None:
    for round_ in case.rounds():
        for _, layer, position in parts_of(round_):
            assert case.made_at(layer, position) <= round_.ready_at


@given(cases())
def test_rounds_start_in_order_and_all_of_them(case: Case) -> None:
    """`Exchange` starts them from the front, and the last tick must release the last one."""
    moments = [round_.ready_at for round_ in case.rounds()]
    assert moments == sorted(moments)
    assert moments[-1] <= (len(case.chunks) + len(case.spans) - 2, ALL_LAYERS)


@given(cases().filter(lambda case: case.granularity != "prefill"))
def test_a_round_is_not_held_back(case: Case) -> None:
    """It starts in the tick that makes it; with granularity "layer" as soon as the layer is done."""
    for round_ in case.rounds():
        for _, layer, position in parts_of(round_):
            tick, layers_done = case.made_at(layer, position)
            assert round_.ready_at == (tick, layers_done if case.granularity == "layer" else ALL_LAYERS)


@given(cases().filter(lambda case: case.granularity != "layer"))
def test_a_coarser_granularity_makes_fewer_rounds(case: Case) -> None:
    ticks = len(case.chunks) + len(case.spans) - 1
    assert len(case.rounds()) == (1 if case.granularity == "prefill" else ticks)
