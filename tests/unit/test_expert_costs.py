"""Which way is faster for rows that all ranks have: adding up, or all-to-all of parts of them."""

import pytest

from mpi_spp.parallel.dispatch_cost import dispatch_pays, dispatch_s
from mpi_spp.parallel.links import Group, Link, Links
from mpi_spp.parallel.shares import Experts

FREE = Link(0.0, 1e9)  # no latency: bytes alone decide


def experts(top_k: int, count: int = 64) -> Experts:
    return Experts(count, top_k, 100)


def test_seconds_are_those_of_the_bytes() -> None:
    """Of 2 ranks, each sends half of its rows, 4 bytes a number there and back."""
    seconds = dispatch_s(5, experts(1), 100, 4, Group(2), Links(FREE, FREE))
    assert seconds == pytest.approx(5 * 0.5 * (100 * 8 + 8) / 1e9)


@pytest.mark.parametrize(
    "num_ranks, top_k, pays", [(2, 1, True), (2, 2, False), (8, 2, True), (8, 32, False), (64, 2, True)]
)
def test_few_experts_a_token_and_many_ranks_pay(num_ranks: int, top_k: int, pays: bool) -> None:
    assert dispatch_pays(256, experts(top_k), 1024, 2, Group(num_ranks), Links(FREE, FREE)) == pays


def test_few_rows_never_pay() -> None:
    """Four exchanges wait more often than one sum."""
    links = Links(Link(3e-6, 6e9), Link(25e-6, 1.25e9))
    assert not dispatch_pays(1, experts(1), 1024, 2, Group(8), links)
    assert not dispatch_pays(1, experts(1), 1024, 2, Group(8, 8), links)
    assert dispatch_pays(512, experts(1), 4096, 2, Group(8, 8), links)
