"""Engines of the reference models, and what they answer on all ranks of a job."""

import copy
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mpi4py import MPI

from mpi_spp.comm.deferred_free import Leases
from mpi_spp.comm.world import World, the_world
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.choice import backends
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.config import ModelConfig, read_config
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.request import Request
from mpi_spp.system.timings import Clock


def config_of(directory: Path, **options: object) -> RunConfig:
    """Exact, and without a measurement: that of kernels takes seconds for each model, that of ranks a third of one."""
    settings = {"dtype": "float32", "kernels": "plain", "threads": 1, "device": "cpu", "layer_split": "even"} | options
    return RunConfig(model=str(directory), **settings)


def engine_of(config: RunConfig, world: World, alone: bool = False) -> Engine:
    """Of a model that all ranks can read."""
    directory = Path(config.model)
    return Engine(config, world.on_rank_0(lambda: read_config(directory)), directory, world, Clock(), alone=alone)


@functools.cache
def config_here(directory: Path) -> ModelConfig:
    """What rank 0 has read: transformers takes a second to load. Collective, when it is asked for the first time."""
    return the_world().on_rank_0(lambda: read_config(directory))


def answers(engine: Engine, prompts: Sequence[list[int]], new_tokens: int, most: int | None = None) -> list[list[int]]:
    """Of all prompts, `most` at once, the same on all ranks; each answer is shorter by a token than the one before."""
    requests = [Request(prompt, frozenset(), new_tokens - number) for number, prompt in enumerate(prompts)]
    tokens: list[list[int]] = [[] for _ in prompts]
    for number, token in engine.generate_batch(requests, most=most):
        tokens[number].append(token)
    assert engine.world.gather(tokens) == [tokens] * engine.world.size
    return tokens


def of_all_kinds(dtype: torch.dtype) -> dict[str, Plain]:
    """Back ends that work here, by name; of native variants, whose products alone differ, the best. --full: all."""
    found = backends(dtype, torch.device("cpu"), cache_directory() / "kernels")
    variants = [name for name in found if is_native(name)]
    full = os.environ.get("MPI_SPP_FULL_TESTS") == "1"
    return {name: backend for name, backend in found.items() if full or name not in variants[1:]}


def one_rank_of(world: World) -> World:
    """This rank as a job of its own, in which no other needs to take part."""
    single = copy.copy(world)
    single.mpi_comm = single._local = MPI.COMM_SELF
    single.rank, single.size, single.local_rank, single.local_size = 0, 1, 0, 1
    single.leases = Leases(single.gather)
    return single
