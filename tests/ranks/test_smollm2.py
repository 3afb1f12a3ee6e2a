"""The default model in float32: the tokens of transformers behind a real text of 600."""

import itertools
from typing import Any

import engines
import pytest
import smollm2

from mpi_spp.comm.world import World
from mpi_spp.config import GRANULARITIES
from mpi_spp.parallel import registry

DAILY = [
    pytest.param({"prefill": "tensor", "decode": "tensor"}, marks=pytest.mark.ranks(2), id="tensor"),
    pytest.param({"sync_strategy": "pairwise", "sync_granularity": "layer"}, marks=pytest.mark.ranks(3), id="pipeline"),
    pytest.param({"mesh": "pp=2,tp=2"}, marks=pytest.mark.ranks(4), id="stages of shards"),
]


DAILY_TOKENS = 16


def check(world: World, new_tokens: int = smollm2.NEW_TOKENS, **options: Any) -> None:
    directory, reference = world.on_rank_0(smollm2.directory), smollm2.reference()
    config = engines.config_of(directory, **{"chunk_size": 128, "kernels": "auto"} | options)
    engine = engines.engine_of(config, world)
    assert engines.answers(engine, [reference["prompt_ids"]], new_tokens) == [reference["token_ids"][:new_tokens]]


@pytest.mark.parametrize("options", DAILY)
def test_each_kind_of_parallelism(options: dict[str, str], world: World) -> None:
    if "mesh" in options and world.size != 4:
        pytest.skip("the mesh is for 4 ranks")
    check(world, DAILY_TOKENS, **options)


@pytest.mark.full
@pytest.mark.ranks(3)
@pytest.mark.parametrize("chunk_size", (7, 128, 4096))
@pytest.mark.parametrize("sync, granularity", [*itertools.product(("pairwise", "ring", "shared"), GRANULARITIES)])
def test_every_sync(sync: str, granularity: str, chunk_size: int, world: World) -> None:
    check(world, sync_strategy=sync, sync_granularity=granularity, chunk_size=chunk_size)


@pytest.mark.full
@pytest.mark.ranks(3)
@pytest.mark.parametrize("decode", registry.choices("decode"))
@pytest.mark.parametrize("prefill", registry.choices("prefill"))
def test_every_prefill_with_every_decode(prefill: str, decode: str, world: World) -> None:
    """The sync is the one that joins them."""
    check(world, prefill=prefill, decode=decode)
