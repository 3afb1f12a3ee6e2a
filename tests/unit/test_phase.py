"""Meshes, and what each rank computes, holds and gives in a phase."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_shape import LayerShape

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.parallel import registry
from mpi_spp.parallel.layout import Region
from mpi_spp.parallel.mesh import Mesh, mesh_of, parse_mesh
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.parallel.phase import Phase, layout_of, needed, plan_phase
from mpi_spp.parallel.shares import Experts, split_layer
from mpi_spp.strategies.assignment import load_strategies, plan_phases

LAYERS = 12


@pytest.mark.parametrize(
    "text, mesh",
    [
        ("pp=3", Mesh(pp=3)),
        ("ep=4", Mesh(ep=4)),
        ("tp=2,ep=3,dp=2", Mesh(dp=2, tp=2, ep=3)),
        ("tp=2", Mesh(tp=2)),
        ("pp=2,tp=2", Mesh(pp=2, tp=2)),
        (" tp=2, dp=3 ", Mesh(dp=3, tp=2)),
    ],
)
def test_a_mesh_is_read(text: str, mesh: Mesh) -> None:
    assert parse_mesh(text) == mesh
    assert parse_mesh(str(mesh)) == mesh


@pytest.mark.parametrize("sync", ["auto", *registry.choices("sync")])
def test_on_one_rank_every_sync_is_accepted(sync: str) -> None:
    """A study over 1, 2 and 3 ranks has one command."""
    for prefill, decode in itertools.product(registry.choices("prefill"), registry.choices("decode")):
        config = RunConfig(model="", prefill=prefill, decode=decode, sync_strategy=sync)
        for alone in (False, True):
            assert load_strategies(config, Mesh(dp=2), alone).sync_name == "none"


@pytest.mark.parametrize("text", ["", "pp", "pp=0", "pp=-1", "xp=2", "pp=2,pp=2", "pp=2;tp=2", "pp=2,", "pp=two"])
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--mesh"):
        parse_mesh(text)


def test_a_mesh_of_other_ranks_is_refused() -> None:
    assert mesh_of(None, 5) == Mesh(pp=5)
    with pytest.raises(UserError, match="for 4 ranks, not 3"):
        mesh_of("pp=2,tp=2", 3)


def phase_of(verb: str, name: str, mesh: Mesh, num_shares: int, num_heads: int) -> Phase:
    places = [registry.load(verb, name).place(mesh, rank) for rank in range(mesh.replica_size)]
    shape = LayerShape(8, 700, 2 * num_heads, num_heads, 2)
    heads = split_layer(shape, places[0].num_shards) if places[0].splits_tokens else []
    return plan_phase(places, split_evenly(LAYERS, places[0].num_stages), split_layer(shape, num_shares), heads)


STRATEGIES = [(verb, name) for verb in ("prefill", "decode") for name in registry.choices(verb)]
MESHES = st.builds(Mesh, pp=st.integers(1, 4), tp=st.integers(1, 3), ep=st.integers(1, 3))


@pytest.mark.parametrize("verb, name", STRATEGIES)
@given(MESHES, st.integers(1, 9))
def test_the_ranks_of_a_phase_make_up_the_model(verb: str, name: str, mesh: Mesh, num_heads: int) -> None:
    """Every share of every layer is computed by one rank, or by all of a stage; its cache is there, and given once."""
    phase = phase_of(verb, name, mesh, mesh.replica_size, num_heads)
    ranks = range(mesh.replica_size)
    parts = [(layer, share) for rank in ranks for layer in phase.spans[rank] for share in phase.shares[rank]]
    place = phase.places[0]
    copies = mesh.replica_size // (place.num_stages * place.stage_size) * place.num_parts
    holders = copies * place.num_shards // place.num_weight_shards
    whole = itertools.product(range(LAYERS), range(mesh.replica_size))
    assert sorted(parts) == sorted(list(whole) * holders)
    given_ = [(layer, head) for of in phase.regions for layer in of.layers for head in of.made]
    assert sorted(given_) == sorted(list(itertools.product(range(LAYERS), range(num_heads))) * copies)
    assert all(set(of.made) <= set(of.heads) for of in phase.regions)


@given(st.integers(2, 5), st.integers(1, 9))
def test_a_tensor_decode_has_the_cache_that_token_shards_leave(num_ranks: int, num_heads: int) -> None:
    phases = [
        phase_of(*which, Mesh(pp=num_ranks), num_ranks, num_heads)
        for which in (("prefill", "ulysses"), ("decode", "tensor"))
    ]
    assert phases[0].regions == phases[1].regions


def test_token_shards_inside_stages() -> None:
    phase = phase_of("prefill", "ulysses", Mesh(pp=2, tp=2), 4, 3)
    assert [(place.stage, place.shard) for place in phase.places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [list(span) for span in phase.spans[::2]] == [list(range(6)), list(range(6, 12))]
    assert phase.shares == [range(4)] * 4


def test_a_ring_inside_stages() -> None:
    phase = phase_of("prefill", "ring", Mesh(pp=2, tp=2), 4, 3)
    assert [(place.stage, place.part) for place in phase.places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [list(span) for span in phase.spans[::2]] == [list(range(6)), list(range(6, 12))]
    assert str(phase.layout) == "layers and positions split" and phase.last == 2


def test_a_ring_between_groups_of_token_shards() -> None:
    """Neighbours exchange heads, and those that have the same heads make a ring."""
    phase = phase_of("prefill", "usp", Mesh(pp=3, tp=2), 6, 3)
    assert [(place.part, place.shard) for place in phase.places] == list(itertools.product(range(3), range(2)))
    assert [len(region.heads) for region in phase.regions] == [2, 1] * 3
    assert str(phase.layout) == "heads and positions split" and set(phase.spans) == {range(LAYERS)}


@given(st.integers(2, 5), st.integers(1, 9))
def test_without_shards_it_is_a_ring_and_without_parts_ulysses(num_ranks: int, num_heads: int) -> None:
    for mesh, like in ((Mesh(pp=num_ranks), "ring"), (Mesh(tp=num_ranks), "ulysses")):
        found, expected = (phase_of("prefill", name, mesh, num_ranks, num_heads) for name in ("usp", like))
        assert found == expected


@given(MESHES.filter(lambda mesh: mesh.replica_size > 1))
def test_a_resharded_run_holds_no_more_than_its_two_parts(mesh: Mesh) -> None:
    """And less where they overlap: a rank's own shard of the decode is within its shard of the prefill."""
    phases = [phase_of(*which, mesh, mesh.replica_size, 3) for which in (("prefill", "pipeline"), ("decode", "tensor"))]
    for rank in range(mesh.replica_size):
        held = sum(map(len, needed(phases, rank).values()))
        both = sum(len(phase.spans[rank]) * len(phase.shares[rank]) for phase in phases)
        assert held == both - len(phases[0].spans[rank])


def test_regions_within_others() -> None:
    part, whole = Region(range(2, 4), range(1), range(1)), Region(range(4), range(3), range(3))
    assert part.is_within(whole) and whole.is_within(whole) and not whole.is_within(part)
    assert Region(range(2, 2), range(1), range(1)).is_within(part)
    first, second = (replace(whole, part=number, num_parts=2) for number in range(2))
    assert first.is_within(first) and first.is_within(whole) and replace(part, num_parts=2).is_within(first)
    assert not second.is_within(first) and not whole.is_within(first)


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(pp=3), Mesh(pp=2, tp=2), Mesh(pp=7)], ids=str)
@pytest.mark.parametrize("prefill", registry.choices("prefill"))
@pytest.mark.parametrize("decode", registry.choices("decode"))
def test_auto_takes_a_sync_that_joins(mesh: Mesh, prefill: str, decode: str) -> None:
    chosen = load_strategies(RunConfig(model="m", prefill=prefill, decode=decode), mesh)
    assert chosen.sync.joins(*(layout_of(places[0]) for places in (chosen.prefill_places, chosen.decode_places)))


def with_experts(num_layers: int) -> Any:
    """What of a model's configuration plans look at."""
    return SimpleNamespace(**vars(LayerShape(8, 700, 4, 2, 2, Experts(5, 2, 100))), num_hidden_layers=num_layers)


def test_groups_of_experts_need_experts() -> None:
    config, mesh = RunConfig(model="m", mesh="ep=2", layer_split="even"), Mesh(ep=2)
    shape = LayerShape(8, 700, 4, 2, 2)
    model = SimpleNamespace(**vars(shape), num_hidden_layers=LAYERS)
    with pytest.raises(UserError, match="--mesh: ep=2 spreads experts over ep, but m has none; use tp instead"):
        plan_phases(load_strategies(config, mesh), config, model, list)
    model.experts = Experts(5, 2, 100)
    plan = plan_phases(load_strategies(config, mesh), config, model, list)
    assert [plan.shares[number].experts for (number,) in plan.prefill.shares] == [range(3), range(3, 5)]
    config = replace(config, prefill="ring", decode="context")
    with pytest.raises(UserError, match="--mesh: ep=2 spreads experts over ep, but prefill ring and decode context"):
        load_strategies(config, mesh)


@pytest.mark.parametrize("prefill", ["ulysses", "ring", "usp"])
@pytest.mark.parametrize("mesh, decode", [("ep=3", "tensor"), ("pp=2,ep=2", "pipeline")])
def test_ranks_with_tokens_of_their_own_hold_their_own_experts_alone(prefill: str, mesh: str, decode: str) -> None:
    """And the rest of their layers whole, where decode needs no more: of all experts each is there once."""
    axes, layers = parse_mesh(mesh), 4
    model = with_experts(layers)
    config = RunConfig(model="m", mesh=mesh, layer_split="even", prefill=prefill, decode=decode)
    plan = plan_phases(load_strategies(config, axes), config, model, list)
    if prefill == "usp" and axes.pp > 1:  # whose ranks have all layers in the prefill
        assert not plan.dispatches and plan.shares_on(0) == plan.shares
        return
    assert plan.dispatches
    held: list[tuple[int, int]] = []
    for rank in range(axes.size):
        shares = plan.shares_on(rank)
        for layer, numbers in needed((plan.prefill, plan.decode), rank).items():
            assert numbers == list(range(len(shares)))
            held += [(layer, expert) for number in numbers for expert in shares[number].experts]
    assert sorted(held) == list(itertools.product(range(layers), range(5)))
    assert [share.query_heads for share in shares] == [share.query_heads for share in plan.shares]


def test_experts_that_the_decode_needs_stay_whole() -> None:
    """Columns of each, where two ranks share a group; and without a mesh that spreads experts."""
    model = with_experts(4)
    for mesh in ("ep=2,tp=2", "tp=4", "pp=4"):
        config = RunConfig(model="m", mesh=mesh, layer_split="even", prefill="ulysses", decode="tensor")
        plan = plan_phases(load_strategies(config, parse_mesh(mesh)), config, model, list)
        assert not plan.dispatches and plan.shares_on(1) == plan.shares


def test_a_sync_that_does_not_join_is_refused_with_one_that_does() -> None:
    config = RunConfig(model="m", decode="tensor", sync_strategy="pairwise")
    with pytest.raises(UserError, match=r"--sync-strategy: pairwise cannot .* choose reshard or auto"):
        load_strategies(config, Mesh(pp=2))
