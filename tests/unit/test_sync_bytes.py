"""What a sync moves, counted for all ranks at once: the same as the rounds that an exchange would run, one by one."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.config import GRANULARITIES, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.forecast.routes import routes_of, traffic_of
from mpi_spp.forecast.scenario import Layout, Scenario, lay_out, position_bytes
from mpi_spp.forecast.speeds import assumed
from mpi_spp.forecast.sync import Moved, moved_by
from mpi_spp.kv.exchange import Shared, takes_for_host
from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.rounds import Round, plan_rounds

MESHES = [Mesh(pp=pp, tp=tp) for pp, tp in itertools.product((1, 2, 3), (1, 2)) if pp * tp > 1]
PAIRS = [
    ("pipeline", "replicated", "pairwise"),
    ("tensor", "replicated", "ring"),
    ("pipeline", "replicated", "ring"),
    ("pipeline", "replicated", "shared"),
    ("pipeline", "tensor", "reshard"),
    ("tensor", "pipeline", "reshard"),
    ("ring", "replicated", "pairwise"),
    ("ring", "replicated", "ring"),
    ("ring", "replicated", "shared"),
    ("ring", "tensor", "reshard"),
    ("pipeline", "context", "reshard"),
    ("tensor", "context", "reshard"),
    ("ring", "context", "none"),
    ("ring", "context", "reshard"),
    ("ring", "pipeline", "reshard"),
    ("usp", "replicated", "pairwise"),
    ("usp", "replicated", "shared"),
    ("usp", "tensor", "reshard"),
    ("usp", "context", "reshard"),
]


def parcels(round_: Round, sync: str, layout: Layout, hosts: list[str]) -> np.ndarray:
    """What goes from each rank to each other."""
    ranks, regions = range(len(hosts)), layout.plan.decode.regions
    found = np.zeros((len(hosts), len(hosts)))
    for a, b in itertools.permutations(ranks, 2):
        block = round_.blocks[a]
        if sync == "pairwise" or (sync == "shared" and takes_for_host(hosts, a, b)):
            found[a, b] = len(block)
        elif sync == "reshard":
            found[a, b] = len(block.within(regions[b], layout.kept[b]))
        elif sync == "ring" and b == (a + 1) % len(hosts):
            found[a, b] = sum(len(block) for owner, block in enumerate(round_.blocks) if owner != b)
    return found


def by_host(parcels: np.ndarray, hosts: list[str], axis: int) -> list[float]:
    """What passes between hosts: leaves them (axis 0), or enters them (axis 1)."""
    names = list(dict.fromkeys(hosts))
    totals = dict.fromkeys(names, 0.0)
    for pair in itertools.product(range(len(hosts)), repeat=2):
        if hosts[pair[0]] != hosts[pair[1]]:
            totals[hosts[pair[axis]]] += parcels[pair]
    return list(totals.values())


@given(
    mesh=st.sampled_from(MESHES),
    pair=st.sampled_from(PAIRS),
    granularity=st.sampled_from(GRANULARITIES),
    tokens=st.integers(1, 40),
    places=st.lists(st.sampled_from("abc"), min_size=6, max_size=6),
)
def test_counts_are_those_of_the_rounds(
    model: ModelConfig, mesh: Mesh, pair: tuple[str, str, str], granularity: str, tokens: int, places: list[str]
) -> None:
    prefill, decode, sync = pair
    hosts = sorted(places[: mesh.size])
    config = RunConfig(
        model="some", prefill=prefill, decode=decode, sync_strategy=sync, sync_granularity=granularity, chunk_size=7
    )
    scenario = Scenario(config, model, mesh, hosts, torch.float32, "plain", tokens, 1, assumed(model, hosts))
    try:
        layout = lay_out(scenario)
    except UserError:
        return  # a layout that no sync has to join, such as one stage of tensor shards to tensor shards
    moved, plan = moved_by(scenario, layout), layout.plan
    if plan.prefill.regions == plan.decode.regions:
        assert moved is None
        return
    assert moved is not None
    stages = [place.stage for place in plan.prefill.places]
    rounds = plan_rounds(granularity, plan.prefill.regions, stages, layout.chunks, layout.made)
    check(moved, rounds, sync, layout, hosts, position_bytes(scenario))


def check(moved: Moved, rounds: list[Round], sync: str, layout: Layout, hosts: list[str], row: int) -> None:
    assert len(rounds) == len(moved.ticks)
    assert [one.ready_at for one in rounds] == list(zip(moved.ticks, moved.layers_done, strict=True))
    same = np.array([[a == b for b in hosts] for a in hosts])
    for number, round_ in enumerate(rounds):
        found = row * parcels(round_, sync, layout, hosts)
        assert moved.sent[number] == pytest.approx(found.sum(axis=1))
        assert moved.received[number] == pytest.approx(found.sum(axis=0))
        assert moved.inside[number] == pytest.approx((found * same).sum(axis=0))
        assert moved.leaving[number] == pytest.approx(by_host(found, hosts, 0))
        assert moved.entering[number] == pytest.approx(by_host(found, hosts, 1))


@pytest.mark.parametrize(
    "sync", [one for one in registry.choices("sync") if registry.load("sync", one).MOVES is Shared]
)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), data=st.data())
def test_a_strategy_sends_what_it_says_and_each_rank_gets_all(sync: str, sizes: list[int], data: st.DataObject) -> None:
    """What it states of its traffic, where it does, is what its exchange does."""
    module, num_ranks = registry.load("sync", sync), len(sizes)
    hosts = np.array(data.draw(st.lists(st.integers(0, 2), min_size=num_ranks, max_size=num_ranks)))
    made, stated = np.array([sizes, sizes[::-1]], dtype=float), SimpleNamespace(exchange=module.exchange)
    for found, expected in zip(
        traffic_of(module, made, hosts), traffic_of(cast(Any, stated), made, hosts), strict=True
    ):
        assert found == pytest.approx(expected)
    routes = routes_of(module.exchange, num_ranks)
    got = {(receiver, owner) for receiver, owner in zip(routes.receivers, routes.owners, strict=True)}
    assert got >= set(itertools.permutations(range(num_ranks), 2))
    assert routes_of(module.exchange, 3).in_steps == (sync != "pairwise")


@pytest.mark.parametrize("first_of, rounds", [((0, 0, 0), 0), ((0, 1, 0), 1), ((0, 0, 2), 1)])
def test_a_shared_cache_travels_where_there_is_another_host(first_of: tuple[int, ...], rounds: int) -> None:
    """In whatever order ranks lie on hosts."""
    comm = SimpleNamespace(ialltoall=lambda *rows: rows)
    parcels = SimpleNamespace(first_of=first_of, outgoing=None, out_lengths=[], incoming=None, in_lengths=[])
    requests = registry.load("sync", "shared").exchange(cast(Any, comm), cast(Any, parcels))
    assert len(list(requests)) == rounds
