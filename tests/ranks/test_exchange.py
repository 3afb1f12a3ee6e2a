"""The rounds of every KV sync, all under way at once, between ranks that are never in step."""

import itertools
import time
from collections.abc import Iterator, Sequence
from types import ModuleType

import pytest
import torch
from layer_shape import LayerShape

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.config import GRANULARITIES
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.cache import KeyLayout
from mpi_spp.kernels.choice import backends
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange, Move
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel import registry
from mpi_spp.parallel.layout import Held, Region
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import Ranges, split_chunks, split_evenly
from mpi_spp.parallel.phase import Phase, held_by, plan_phase
from mpi_spp.parallel.rounds import ALL_LAYERS, plan_rounds
from mpi_spp.parallel.shares import split_layer
from mpi_spp.strategies.assignment import Plan

pytestmark = [pytest.mark.ranks(2, 3), pytest.mark.smoke]

LAYERS_PER_RANK, POSITIONS, HEADS, HEAD_DIM = 3, 38, 3, 4
SHAPE = LayerShape(8, 70, 2 * HEADS, HEADS, HEAD_DIM)


def plans_of(size: int, sync: str) -> Iterator[Plan]:
    """Every prefill with every decode that a sync leads to, but for those that split the cache as others do."""
    joins, found = registry.load("sync", sync).joins, list[object]()
    for prefill, decode in itertools.product(*map(registry.choices, ("prefill", "decode"))):
        source, target = (
            phase_of(registry.load(verb, name), size) for verb, name in (("prefill", prefill), ("decode", decode))
        )
        alike = (source.regions, target.regions)  # all that an exchange knows of two phases
        if joins(source.layout, target.layout) and alike not in found:
            yield Plan([], source, target, 1, "zigzag")
            found.append(alike)
    if not found:
        pytest.skip(f"{sync} has nothing to do on {size} ranks")


def layout_of(rank: int) -> KeyLayout:
    """Neighbours have different back ends, where there are two."""
    found = backends(torch.bfloat16, torch.device("cpu"), cache_directory() / "kernels")
    native = next(filter(is_native, found), "plain")
    return found[native if rank % 2 else "plain"].key_layout


def phase_of(strategy: ModuleType, size: int) -> Phase:
    places = [strategy.place(Mesh(pp=size), rank) for rank in range(size)]
    return plan_phase(places, split_evenly(size * LAYERS_PER_RANK - 1, places[0].num_stages), split_layer(SHAPE, size))


def held_in(phase: Phase, positions: list[Ranges]) -> Held:
    rank = the_world().rank
    return held_by(phase.places[rank], positions[rank], POSITIONS)


def poisoned(region: Region, held: Held, dtype: torch.dtype) -> KVCache:
    layout, room = layout_of(the_world().rank), held.room(POSITIONS)
    cache = KVCache(region.layers, region.heads, room, HEAD_DIM, dtype, layout=layout, held=held)
    for part in (cache.keys, cache.values) if cache.scales is None else (cache.scales,):
        part.fill_(float("nan"))
    return cache


def filled(region: Region, held: Held, dtype: torch.dtype, layers: range, made: Ranges) -> KVCache:
    """These layers of the cache filled with numbers of their own where they are made, the others with poison."""
    cache = poisoned(region, held, dtype)
    heads = torch.tensor([[head + dim / 16 for dim in range(HEAD_DIM)] for head in region.heads])
    for layer, positions in itertools.product(layers, made if len(region.heads) else ()):
        numbers = torch.tensor([float(100 * layer + position) for position in positions])
        parts = numbers[:, None, None] + heads, -numbers[:, None, None] - heads
        cache.of_layer(layer).store(held.slot(positions.start), *parts)
    return cache


def parts_of(cache: KVCache) -> list[torch.Tensor]:
    """Keys and values [heads, head_dim, positions] of every layer, as numbers."""
    stop = cache.held.slot(POSITIONS)
    return [part for layer in cache.layers for part in cache.of_layer(layer).read(0, stop, torch.float32)]


def sync_all_at_once(
    ranks: Communicator, sync: str, granularity: str, pauses: Sequence[float], dtype: torch.dtype
) -> None:
    """Every round is started before any is complete; plans take turns with the pauses."""
    for plan, pause in zip(plans_of(ranks.size, sync), itertools.cycle(pauses)):
        sync_one(ranks, plan, registry.load("sync", sync), granularity, pause, dtype)


def sync_one(
    ranks: Communicator, plan: Plan, strategy: ModuleType, granularity: str, pause: float, dtype: torch.dtype
) -> None:
    source, target, chunks = plan.prefill, plan.decode, split_chunks(POSITIONS, 4)
    mine, wanted = source.regions[ranks.rank], target.regions[ranks.rank]
    made, kept = plan.prefill_positions(chunks), plan.decode_positions(chunks)
    one_cache, in_source, in_target = mine.is_within(wanted), held_in(source, made), held_in(target, kept)
    of_cache = (wanted, in_target) if one_cache else (mine, in_source)
    before = filled(*of_cache, dtype, mine.layers, made[ranks.rank])
    cache = before if one_cache else poisoned(wanted, in_target, dtype)
    rounds = plan_rounds(granularity, source.regions, [place.stage for place in source.places], chunks, made)
    if source.regions == target.regions:
        rounds = []
    hosts = ranks.hosts(f"host{ranks.rank}")  # no two ranks share memory
    exchange = Exchange(ranks, strategy.MOVES, strategy.exchange)
    move = Move(before, cache, target.regions, kept, hosts)
    sync = exchange.add(move, rounds, first_tick=0)
    time.sleep(pause * ranks.rank)  # ranks are never in step
    exchange.reached(len(chunks) + ranks.size, ALL_LAYERS)
    sync.finish()
    expected = filled(wanted, in_target, dtype, wanted.layers, kept[ranks.rank])
    for part, of_expected in zip(parts_of(cache), parts_of(expected), strict=True):
        assert torch.equal(part, of_expected)
    hosts.free()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("sync", registry.choices("sync"))
def test_many_rounds_at_once(ranks: Communicator, sync: str, granularity: str, dtype: torch.dtype) -> None:
    sync_all_at_once(ranks, sync, granularity, (0.0, 0.002), dtype)


@pytest.mark.ranks(5)
@pytest.mark.parametrize("sync", registry.choices("sync"))
def test_many_rounds_on_more_ranks_than_heads(ranks: Communicator, sync: str) -> None:
    sync_all_at_once(ranks, sync, "chunk", (0.0, 0.002), torch.bfloat16)


@pytest.mark.parametrize("sync", registry.choices("sync"))
def test_two_prefills_one_after_the_other(ranks: Communicator, sync: str) -> None:
    """A rank may be in the second, with the same tags, while another is still in the first."""
    for _ in range(2):
        sync_all_at_once(ranks, sync, "layer", (0.001,), torch.bfloat16)
