"""What is made of MPI goes back to it when nobody uses it any more."""

import gc
from pathlib import Path

import pytest
import torch
from mpi4py import MPI

from mpi_spp.comm.deferred_free import Leases
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.model.config import read_config
from mpi_spp.system.timings import Clock

pytestmark = pytest.mark.ranks(3)


class Owner:
    """Of something."""


def test_what_one_rank_still_has_stays_on_all(world: World) -> None:
    freed: list[str] = []
    leases = Leases(world.gather)
    first, second = Owner(), Owner()
    leases.add(first, [lambda: freed.append("first")])
    leases.add(second, [lambda: freed.append("second"), lambda: freed.append("second again")])
    leases.end()
    assert freed == []
    kept = second if world.rank == world.size - 1 else None
    del first, second
    leases.end()
    assert freed == ["first"]
    del kept
    leases.end()
    leases.end()
    assert freed == ["first", "second", "second again"]


@pytest.mark.parametrize("sync", ("pairwise", "shared"))
def test_an_engine_that_is_dropped_leaves_nothing_in_mpi(sync: str, models: Path, world: World) -> None:
    """Nor does it take the memory of a cache that somebody still has."""
    engine = engine_of(models / "llama_tied", world, sync)
    cache = engine.new_cache(50)
    cache.values.fill_(world.rank if sync == "pairwise" else 7)
    world.meet("filled")
    dropped = engine.comm, engine.kv_comm
    del engine
    gc.collect()
    following = engine_of(models / "llama_tied", world, sync)
    assert all(one._comm == MPI.COMM_NULL for one in dropped)
    assert torch.equal(cache.values, torch.full_like(cache.values, world.rank if sync == "pairwise" else 7))
    assert following.comm._comm != MPI.COMM_NULL


def engine_of(directory: Path, world: World, sync: str) -> Engine:
    settings = {"prefill": "pipeline", "decode": "replicated", "sync_strategy": sync, "dtype": "float32"}
    config = RunConfig(model=str(directory), chunk_size=32, kernels="plain", **settings)
    return Engine(config, world.on_rank_0(lambda: read_config(directory)), directory, world, Clock())
