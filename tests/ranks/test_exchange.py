"""The rounds of every KV sync, all under way at once, between ranks that are never in step."""

import time
from types import ModuleType

import pytest
import torch
from layer_shape import LayerShape

from mpi_spp import registry
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.config import GRANULARITIES
from mpi_spp.kernels.cache import KeyLayout
from mpi_spp.kernels.choice import backends
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange, Move
from mpi_spp.kv.layout import Region
from mpi_spp.kv.rounds import ALL_LAYERS, plan_rounds
from mpi_spp.mesh import Mesh
from mpi_spp.model.store import cache_directory
from mpi_spp.partition import split_chunks, split_evenly
from mpi_spp.phase import Phase, plan_phase
from mpi_spp.shares import split_layer

LAYERS_PER_RANK, POSITIONS, HEADS, HEAD_DIM = 3, 38, 3, 4
SHAPE = LayerShape(8, 70, 2 * HEADS, HEADS, HEAD_DIM)


def phases_of(size: int, sync: str) -> tuple[Phase, Phase]:
    """A pipelined prefill, and a decode that a sync leads to."""
    joins = registry.load("sync", sync).joins
    source = phase_of(registry.load("prefill", "pipeline"), size)
    for decode in registry.choices("decode"):
        target = phase_of(registry.load("decode", decode), size)
        if joins(source.layout, target.layout):
            return source, target
    pytest.skip(f"{sync} has nothing to do on {size} ranks")


def layout_of(rank: int) -> KeyLayout:
    """Neighbours have different back ends, where there are two."""
    found = backends(torch.bfloat16, torch.device("cpu"), cache_directory() / "kernels")
    return found["native" if rank % 2 and "native" in found else "plain"].key_layout


def phase_of(strategy: ModuleType, size: int) -> Phase:
    places = [strategy.place(Mesh(pp=size), rank) for rank in range(size)]
    return plan_phase(places, split_evenly(size * LAYERS_PER_RANK - 1, places[0].num_stages), split_layer(SHAPE, size))


def poisoned(region: Region, dtype: torch.dtype) -> KVCache:
    layout = layout_of(the_world().rank)
    cache = KVCache(region.layers, region.heads, POSITIONS, HEAD_DIM, dtype, layout=layout)
    for part in (cache.keys, cache.values) if cache.scales is None else (cache.scales,):
        part.fill_(float("nan"))
    return cache


def filled(region: Region, dtype: torch.dtype, layers: range) -> KVCache:
    """These layers of the cache filled with numbers of their own, the others with poison."""
    cache = poisoned(region, dtype)
    for layer in layers:
        numbers = torch.tensor([float(100 * layer + position) for position in range(POSITIONS)])
        heads = torch.tensor([[head + dim / 16 for dim in range(HEAD_DIM)] for head in region.heads])
        if len(region.heads):
            cache.of_layer(layer).store(0, numbers[:, None, None] + heads, -numbers[:, None, None] - heads)
    return cache


def parts_of(cache: KVCache) -> list[torch.Tensor]:
    """Keys and values [tokens, heads, head_dim] of every layer, as numbers."""
    return [part for layer in cache.layers for part in cache.of_layer(layer).read(0, POSITIONS, torch.float32)]


def sync_all_at_once(ranks: Communicator, sync: str, granularity: str, pause: float, dtype: torch.dtype) -> None:
    """Every round is started before any is complete."""
    source, target = phases_of(ranks.size, sync)
    mine, wanted = source.regions[ranks.rank], target.regions[ranks.rank]
    one_cache = mine.is_within(wanted)
    made = filled(wanted if one_cache else mine, dtype, mine.layers)
    cache = made if one_cache else poisoned(wanted, dtype)
    chunks, stages = split_chunks(POSITIONS, 4), [place.stage for place in source.places]
    rounds = plan_rounds(granularity, source.regions, stages, chunks)
    strategy = registry.load("sync", sync)
    move = Move(made, cache, target.regions, ranks.hosts(f"host{ranks.rank}"))  # no two ranks share memory
    exchange = Exchange(ranks, strategy.MOVES, strategy.exchange, move, rounds)
    time.sleep(pause * ranks.rank)  # ranks are never in step
    exchange.reached(len(chunks) + ranks.size, ALL_LAYERS)
    exchange.finish()
    for part, expected in zip(parts_of(cache), parts_of(filled(wanted, dtype, wanted.layers)), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("sync", registry.choices("sync"))
def test_many_rounds_at_once(ranks: Communicator, sync: str, granularity: str, dtype: torch.dtype) -> None:
    for pause in (0.0, 0.002):
        sync_all_at_once(ranks, sync, granularity, pause, dtype)


@pytest.mark.parametrize("sync", registry.choices("sync"))
def test_two_prefills_one_after_the_other(ranks: Communicator, sync: str) -> None:
    """A rank may be in the second, with the same tags, while another is still in the first."""
    for _ in range(2):
        sync_all_at_once(ranks, sync, "layer", 0.001, torch.bfloat16)
