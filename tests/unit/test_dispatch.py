"""Which rows go to which rank: whoever has one of their experts, so that every pair is computed once."""

from collections import Counter
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.comm.dispatch import rows_for
from mpi_spp.parallel.partition import split_evenly


@st.composite
def routings(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """Different experts for each row, any rows, and how many experts there are."""
    count = draw(st.integers(1, 9))
    top_k = draw(st.integers(1, count))
    row = st.permutations(range(count)).map(lambda order: list(order)[:top_k])
    rows = draw(st.lists(row, max_size=12))
    return torch.tensor(rows, dtype=torch.int64).view(-1, top_k), count


@given(routings(), st.data())
def test_every_pair_is_computed_once(routing: tuple[torch.Tensor, int], data: st.DataObject) -> None:
    """Whoever owns what: one rank may own all experts, others none."""
    experts, count = routing
    edges = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    owners = [range(start, stop) for start, stop in pairwise([0, *edges, count])]
    computed: Counter[tuple[int, int]] = Counter()
    for owned in owners:
        rows = rows_for(experts, owned).tolist()
        assert rows == sorted(set(rows)), "a row is sent to a rank once"
        computed.update((row, expert) for row in rows for expert in experts[row].tolist() if expert in owned)
    asked = {(row, expert) for row, of_row in enumerate(experts.tolist()) for expert in of_row}
    assert computed == Counter(asked)


@given(routings(), st.integers(1, 12))
def test_nobody_gets_a_row_for_nothing(routing: tuple[torch.Tensor, int], num_ranks: int) -> None:
    experts, count = routing
    for owned in split_evenly(count, num_ranks):
        for row in rows_for(experts, owned).tolist():
            assert set(experts[row].tolist()) & set(owned)
