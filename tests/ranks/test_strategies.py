"""Every prefill with every decode by every sync that joins them, on every mesh, with every model: the whole matrix.

The list comes from the registries. What is drawn of it from day to day is in test_cases.py.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference_models
from engines import answers

from mpi_spp.comm import shared
from mpi_spp.comm.world import World, the_world
from mpi_spp.config import GRANULARITIES, RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.errors import UserError
from mpi_spp.instruments.report.experts import expert_load
from mpi_spp.model.config import read_config
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh, mesh_of
from mpi_spp.strategies.assignment import load_strategies
from mpi_spp.system.timings import Clock

CHUNK_SIZES = (7, 128, 1)
WORLD_SIZE = the_world().size
MESHES = [None, *(f"pp={WORLD_SIZE // tp},tp={tp}" for tp in range(2, WORLD_SIZE) if WORLD_SIZE % tp == 0)]
WITH_EXPERTS = [
    name for name, recipe in reference_models.RECIPES.items() if "moe" in recipe.model_type or "mixtral" in name
]
EXPERT_MESHES = [
    str(Mesh(pp=WORLD_SIZE // (ep * tp), tp=tp, ep=ep))
    for ep in range(2, WORLD_SIZE + 1)
    for tp in range(1, WORLD_SIZE + 1)
    if WORLD_SIZE % (ep * tp) == 0
]


def joined(mesh: Mesh) -> Iterator[dict[str, str]]:
    """The options of every triple that a mesh allows."""
    verbs = {"prefill": "prefill", "sync": "sync_strategy", "decode": "decode"}
    for names in itertools.product(*map(registry.choices, verbs)):
        options = dict(zip(verbs.values(), names, strict=True))
        try:
            load_strategies(RunConfig(model="any", **options), mesh)
        except UserError:
            continue
        yield options


def settings_of(number: int, directory: Path, mesh: str | None, **options: str) -> RunConfig:
    """Chunk sizes and granularities take turns."""
    return RunConfig(
        model=str(directory),
        device="cpu",
        threads=1,
        layer_split="even",
        mesh=mesh,
        chunk_size=CHUNK_SIZES[number % len(CHUNK_SIZES)],
        sync_granularity=GRANULARITIES[number // len(CHUNK_SIZES) % len(GRANULARITIES)],
        **{"dtype": "float32"} | options,
    )


def engine_of(directory: Path, world: World, config: RunConfig) -> Engine:
    model = world.on_rank_0(lambda: read_config(directory))
    return Engine(config, model, directory, world, Clock())


@pytest.mark.full
@pytest.mark.ranks(3)
@pytest.mark.parametrize(
    "name, mesh",
    [*itertools.product(reference_models.RECIPES, MESHES), *itertools.product(WITH_EXPERTS, EXPERT_MESHES)],
)
def test_every_triple(name: str, mesh: str | None, models: Path, world: World) -> None:
    """Prompts of all lengths at once, whose answers end one after another."""
    directory, engine = models / name, None
    prompts = [reference_models.prompt_of(name, length) for length in reference_models.PROMPT_LENGTHS]
    expected = [
        reference_models.reference_tokens(models, name, length)[: reference_models.NEW_TOKENS - number]
        for number, length in enumerate(reference_models.PROMPT_LENGTHS)
    ]
    models_here = WITH_EXPERTS if mesh in EXPERT_MESHES else list(reference_models.RECIPES)
    first = models_here.index(name) + world.size
    triples = list(enumerate(joined(mesh_of(mesh, world.size)), start=first))
    for number, options in triples:
        config = settings_of(number, directory, mesh, **options)
        if engine is None:
            engine = engine_of(directory, world, config)
        engine.configure(config, Clock())
        assert answers(engine, prompts, reference_models.NEW_TOKENS) == expected, options


@pytest.mark.ranks(3)
@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_either_way_to_the_experts(
    name: str, pays: bool, models: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the costs say; and the report counts every pair of a token and an expert once."""
    monkeypatch.setattr("mpi_spp.engine.communicators.dispatch_pays", lambda rows, **what: pays)
    options = {"prefill": "tensor", "decode": "tensor"}
    engine = engine_of(models / name, world, settings_of(0, models / name, f"ep={world.size}", **options))
    prompt = reference_models.prompt_of(name, 37)
    expected = reference_models.reference_tokens(models, name, 37)
    assert answers(engine, [prompt], reference_models.NEW_TOKENS) == [expected]
    load, model = expert_load(world.gather(engine.facts())), engine.model
    pairs = len(prompt) * sum(model.expert_layers) * model.experts.top_k
    assert sum(load["by_expert"]) == sum(load["by_rank"]) == pairs


@pytest.mark.full
@pytest.mark.ranks(3)
@pytest.mark.parametrize("kv_cache_dtype", ["int8"])
@pytest.mark.parametrize("name", ["qwen3", "mistral_window"])
def test_an_int8_cache_is_moved_by_every_triple(name: str, kv_cache_dtype: str, models: Path, world: World) -> None:
    """Those that meet here give the same tokens."""
    directory, engine, given = models / name, None, []
    prompts = [reference_models.prompt_of(name, 37)]
    for number, options in enumerate(joined(Mesh(pp=world.size))):
        config = settings_of(number, directory, None, kv_cache_dtype=kv_cache_dtype, **options)
        if engine is None:
            engine = engine_of(directory, world, config)
        engine.configure(config, Clock())
        given.append(answers(engine, prompts, reference_models.NEW_TOKENS))
    assert given == [given[0]] * len(given)


@pytest.mark.ranks(3)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("num_hosts", [2, 3])
def test_shared_memory_on_several_hosts(num_hosts: int, granularity: str, models: Path, world: World) -> None:
    """Ranks that are told that they are on different machines share nothing but messages."""
    apart, name, length = copy.copy(world), "qwen3", reference_models.PROMPT_LENGTHS[-1]
    apart.host = f"host{world.rank * num_hosts // world.size}"
    config = dataclasses.replace(
        settings_of(0, models / name, None, sync_strategy="shared"), sync_granularity=granularity
    )
    engine = engine_of(models / name, apart, config)
    expected = reference_models.reference_tokens(models, name, length)
    prompt_ids = reference_models.prompt_of(name, length)
    for _ in range(2):  # memory is given back in between
        assert answers(engine, [prompt_ids], reference_models.NEW_TOKENS) == [expected]


@pytest.mark.ranks(3)
def test_shared_memory_that_is_not_there_is_refused(
    models: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all ranks, though only one knows."""
    engine = engine_of(models / "qwen3", world, settings_of(0, models / "qwen3", None, sync_strategy="shared"))
    monkeypatch.setattr(shared, "_free", lambda: 10)
    with pytest.raises(UserError, match=r"--sync-strategy: shared needs .* MB of shared memory"):
        engine.new_cache(100)
