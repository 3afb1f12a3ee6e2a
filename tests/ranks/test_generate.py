"""Any number of ranks, any sync, any chunk size gives the tokens of transformers, and the cache of one rank."""

import itertools
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracles
import pytest
import reference_models
import torch
from engines import one_rank_of
from turns import every_other

from mpi_spp.comm.world import World, the_world
from mpi_spp.config import GRANULARITIES, KV_CACHE_DTYPES, QUANTIZE, RunConfig
from mpi_spp.engine import costs
from mpi_spp.engine.engine import Engine
from mpi_spp.errors import UserError
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.choice import working
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.config import read_config
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.schedule import Cost
from mpi_spp.request import Request
from mpi_spp.strategies.assignment import load_strategies
from mpi_spp.system.timings import Clock

CHUNK_SIZES = (1, 7, 128, 4096)
LARGEST_DISTANCE = 0.03  # of bfloat16 hidden states whose parts were added in another order


def joins(sync: str) -> bool:
    """Whether it brings the cache to a replicated decode on these ranks."""
    try:
        load_strategies(RunConfig(model="any", sync_strategy=sync), Mesh(pp=the_world().size))
    except UserError:
        return False
    return True


SYNCS = list(itertools.product(filter(joins, registry.choices("sync")), GRANULARITIES))
FULL = os.environ.get("MPI_SPP_FULL_TESTS") == "1"

pytestmark = pytest.mark.ranks(3)


def run_config(directory: Path, **options: object) -> RunConfig:
    settings = {"prompt": "unused", "dtype": "float32", "threads": 1, "device": "cpu"}
    settings |= {"layer_split": "even"} | options  # what each rank gets of a busy machine is measured where it matters
    return RunConfig(model=str(directory), **settings)


def make_engine(directory: Path, world: World, **options: object) -> Engine:
    model = world.on_rank_0(lambda: read_config(directory))
    return Engine(run_config(directory, **options), model, directory, world, Clock())


def answer(engine: Engine, prompt_ids: list[int], new_tokens: int, **options: object) -> list[int]:
    """The same tokens on all ranks, or an error."""
    engine.configure(run_config(Path(engine.config.model), **options), Clock())
    tokens = list(engine.generate(prompt_ids, frozenset(), new_tokens))
    of_all = engine.world.gather(tokens)
    assert of_all == [tokens] * engine.world.size
    return tokens


@pytest.mark.full
@pytest.mark.parametrize("name", reference_models.RECIPES)
def test_every_family_and_feature(name: str, models: Path, world: World) -> None:
    """Every prompt length with every chunk size; the syncs take turns."""
    engine, first = make_engine(models / name, world), list(reference_models.RECIPES).index(name)
    syncs = itertools.islice(itertools.cycle(SYNCS), first, None)
    for length, chunk_size in itertools.product(reference_models.PROMPT_LENGTHS, CHUNK_SIZES):
        sync, granularity = next(syncs)
        tokens = answer(
            engine,
            reference_models.prompt_of(name, length),
            reference_models.NEW_TOKENS,
            sync_strategy=sync,
            sync_granularity=granularity,
            chunk_size=chunk_size,
        )
        expected = reference_models.reference_tokens(models, name, length)
        assert tokens == expected, f"{length} tokens in chunks of {chunk_size}, {sync} {granularity}"


def splits_of(num_layers: int, num_ranks: int) -> list[tuple[int, ...] | str]:
    """Every way that the schedule is asked for; explicit ones with the most layers at either end."""
    rest = [1] * (num_ranks - 1)
    most = num_layers - len(rest)
    return ["auto", "even", (most, *rest), (*rest, most)]


@pytest.mark.full
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_schedule(granularity: str, models: Path, world: World) -> None:
    """Chunks of a slow machine are many, and those of a fast one few: both are planned here."""
    name, length = "llama_tied", reference_models.PROMPT_LENGTHS[-1]
    engine = make_engine(models / name, world, chunk_size=7)
    layers = engine.model.num_hidden_layers
    slow, fast = Cost(512, 0.0, 0.0, 1.0, 1e-2), Cost(512, 1.0, 0.0, 1e-6, 0.0)
    for split, cost in itertools.product(splits_of(layers, world.size), (slow, fast)):
        engine._measuring.costs = [cost.times(rank + 1) for rank in range(world.size)]
        options = {"layer_split": split, "chunk_size": "auto", "sync_granularity": granularity}
        tokens = answer(engine, reference_models.prompt_of(name, length), reference_models.NEW_TOKENS, **options)
        assert tokens == reference_models.reference_tokens(models, name, length), (split, cost, engine.schedule())
        assert sum(engine.schedule()["chunks"]) == length
        if isinstance(split, tuple):
            assert engine.schedule()["layers"] == list(split)


@pytest.mark.ranks(1, 2)
def test_costs_are_measured_once_and_the_same_on_all_ranks(
    models: Path, world: World, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(models / "qwen2_some_windows", world)
    directory = world.on_rank_0(lambda: tmp_path_factory.mktemp("costs"))
    what = costs.Measured(engine.model, torch.float32, torch.device("cpu"), "some", 1)
    monkeypatch.setattr(costs, "speed", lambda: 1.0)
    first = costs.layer_costs(what, lambda: engine.stage, world, directory)
    assert len(first) == world.size
    assert world.gather(first) == [first] * world.size
    assert len(set(first)) == 1 or world.crowding(1) > 1
    world.agree()  # the file is there
    monkeypatch.setattr(costs, "measure", None)
    assert costs.layer_costs(what, lambda: engine.stage, world, directory) == first


@pytest.mark.ranks(2, 3)
def test_a_rank_that_comes_out_far_behind_gets_fewer_layers(
    models: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does beside another program."""
    monkeypatch.setattr(costs, "speed", lambda: 0.25 if world.rank == 0 else 1.0)
    monkeypatch.setattr(world, "crowding", lambda threads: 1.0)
    name, length = "llama_tied", 37
    options = {"decode": "pipeline", "layer_split": "auto"}
    engine = make_engine(models / name, world, **options)
    tokens = answer(engine, reference_models.prompt_of(name, length), reference_models.NEW_TOKENS, **options)
    assert tokens == reference_models.reference_tokens(models, name, length)
    layers = engine.schedule()["layers"]
    assert layers[0] == 1 or world.size == 1
    assert sum(layers) == engine.model.num_hidden_layers


@pytest.mark.parametrize("kernels, dtype", (("plain", "float32"), ("native", "bfloat16")))
@pytest.mark.parametrize("sync", list(filter(joins, registry.choices("sync"))))
def test_a_sync_leaves_the_same_cache_on_all_ranks(
    sync: str, kernels: str, dtype: str, models: Path, world: World
) -> None:
    """To the bit, and as one rank alone computes it, whatever is in a round."""
    if kernels == "native":
        require_native_kernels()
    name, fixed = "llama_tied", {"sync_strategy": sync, "kernels": kernels, "dtype": dtype, "chunk_size": 7}
    engine = make_engine(models / name, world, **fixed)
    prompt_ids = reference_models.prompt_of(name, reference_models.PROMPT_LENGTHS[-1])
    for kv_cache_dtype, chunk_size in itertools.product(KV_CACHE_DTYPES, (7, 128) if FULL else (7,)):
        changed = {"kv_cache_dtype": kv_cache_dtype, "chunk_size": chunk_size}
        engine.configure(run_config(models / name, **fixed | changed), Clock())
        expected = cache_of_one_rank(engine, prompt_ids, chunk_size)
        for granularity in GRANULARITIES:
            engine.configure(run_config(models / name, sync_granularity=granularity, **fixed | changed), Clock())
            cache = engine.new_cache(len(prompt_ids))
            for part in (cache.keys, cache.values) if cache.scales is None else (cache.scales,):
                part.fill_(float("nan"))
            engine.prefill(prompt_ids, cache)
            assert_equal(cache, expected)


def assert_equal(cache: KVCache, expected: KVCache) -> None:
    """To the bit, at all positions there are."""
    assert torch.equal(*(each.layout.read(each.keys, 0, each.capacity) for each in (cache, expected)))
    assert torch.equal(cache.values, expected.values)
    assert (cache.scales is None) == (expected.scales is None)
    if cache.scales is not None and expected.scales is not None:
        assert torch.equal(cache.scales, expected.scales)


KERNELS = (("float32", "plain"), ("float32", "native"), ("bfloat16", "native"))
EXACT_PREFILLS = ("pipeline", "ulysses")  # those that add up nothing over ranks
NATIVE_NAMES = ("qwen3_bfloat16_shards", "mistral_window", "qwen2_moe", "olmoe")
NAMES = ("llama_tied", "mistral_window", "qwen3")


@pytest.mark.parametrize("name, numbers", every_other(NAMES, KERNELS))
def test_an_int8_cache_gives_the_tokens_of_one_rank(
    name: str, numbers: tuple[str, str], models: Path, world: World
) -> None:
    """With every sync; the granularities take turns, so that each meets every model and all kernels."""
    dtype, kernels = numbers
    if kernels == "native":
        require_native_kernels()
    options = {"kv_cache_dtype": "int8", "dtype": dtype, "kernels": kernels}
    engine, single = (make_engine(models / name, one, chunk_size=7, **options) for one in (world, one_rank_of(world)))
    prompt_ids = reference_models.prompt_of(name, reference_models.PROMPT_LENGTHS[-1])
    turn = NAMES.index(name) + KERNELS.index(numbers)
    for number, chunk_size in enumerate((7, 128)):
        expected = answer(single, prompt_ids, reference_models.NEW_TOKENS, chunk_size=chunk_size, **options)
        first, every = (turn + number) % len(GRANULARITIES), len(GRANULARITIES)
        for sync, granularity in SYNCS if FULL else SYNCS[first::every]:
            how = {"sync_strategy": sync, "sync_granularity": granularity, "chunk_size": chunk_size}
            tokens = answer(engine, prompt_ids, reference_models.NEW_TOKENS, **how, **options)
            assert tokens == expected, how


@pytest.mark.parametrize("dtype, number_bytes", [("float32", 4), ("bfloat16", 2)])
def test_an_int8_cache_makes_the_sync_smaller(dtype: str, number_bytes: int, models: Path, world: World) -> None:
    """By exactly what codes and scales are smaller: head_dim + 4 bytes a head."""
    engine, prompt_ids = make_engine(models / "qwen3", world, dtype=dtype), reference_models.prompt_of("qwen3", 37)
    sent = {}
    for kv_cache_dtype in KV_CACHE_DTYPES:
        before = engine.kv_comm.bytes_sent
        answer(engine, prompt_ids, 1, dtype=dtype, kv_cache_dtype=kv_cache_dtype)
        sent[kv_cache_dtype] = engine.kv_comm.bytes_sent - before
    head_dim = engine.model.head_dim
    assert sent["int8"] * head_dim * number_bytes == sent["auto"] * (head_dim + 4)


def require_native_kernels() -> None:
    if not any(map(is_native, working(torch.bfloat16, torch.device("cpu"), cache_directory() / "kernels"))):
        pytest.skip("needs a CPU with AVX2 and a C compiler")


@pytest.mark.parametrize("prefill, name, kv_cache_dtype", every_other(EXACT_PREFILLS, NATIVE_NAMES, KV_CACHE_DTYPES))
def test_native_kernels_give_the_same_cache_for_all_ranks_and_chunks(
    prefill: str, name: str, kv_cache_dtype: str, models: Path, world: World
) -> None:
    """To the bit, though bfloat16 rounds: no row depends on those that are computed with it."""
    require_native_kernels()
    fixed = {"dtype": "bfloat16", "kernels": "native", "kv_cache_dtype": kv_cache_dtype, "prefill": prefill}
    engine = make_engine(models / name, world, **fixed)
    prompt_ids = reference_models.prompt_of(name, reference_models.PROMPT_LENGTHS[-1] if FULL else 37)
    expected = cache_of_one_rank(engine, prompt_ids, len(prompt_ids))
    tokens, chunk_sizes = [], CHUNK_SIZES[: 4 if FULL else 3]  # the last is as the one before for a short prompt
    for chunk_size in chunk_sizes:
        options = fixed | {"chunk_size": chunk_size}
        engine.configure(run_config(models / name, **options), Clock())
        cache = engine.new_cache(len(prompt_ids))
        engine.prefill(prompt_ids, cache)
        assert_equal(cache, expected)
        tokens.append(answer(engine, prompt_ids, 5, **options))
    assert tokens == [tokens[0]] * len(chunk_sizes)


@pytest.mark.ranks(2)
def test_native_shares_of_a_layer_add_up(models: Path, world: World) -> None:
    """The last token's hidden state is near to what whole layers make of it: each rank brings its part once.

    Of two ranks both have even columns, which native kernels need.
    """
    require_native_kernels()
    name, states = "mistral_window", list[torch.Tensor]()
    prompt_ids = reference_models.prompt_of(name, 37)
    for prefill in ("pipeline", "tensor"):
        options = {"dtype": "bfloat16", "kernels": "native", "prefill": prefill, "chunk_size": 7}
        engine = make_engine(models / name, world, **options)
        states.append(engine.prefill(prompt_ids, engine.new_cache(len(prompt_ids))))
    whole, added = states
    distance, scale = ((one.square().mean().sqrt()).item() for one in (added - whole, whole))
    assert distance < LARGEST_DISTANCE * scale


@pytest.mark.parametrize("decode", ["replicated", "tensor"])
@pytest.mark.parametrize("name", ["qwen3", "llama_biases", "qwen2_moe"])
@pytest.mark.parametrize("scheme", QUANTIZE)
def test_quantised_weights_give_the_tokens_of_transformers_with_the_same_weights(
    scheme: str, name: str, decode: str, models: Path, world: World
) -> None:
    """Shares of a layer are parts of the same codes."""
    engine = make_engine(models / name, world, quantize=scheme, decode=decode, chunk_size=7)
    prompt_ids = reference_models.prompt_of(name, 37)
    options = {"quantize": scheme, "decode": decode, "chunk_size": 7}
    assert (
        answer(engine, prompt_ids, reference_models.NEW_TOKENS, **options)
        == oracles.read("quantized")[f"{scheme} {name}"]
    )


def cache_of_one_rank(engine: Engine, prompt_ids: list[int], chunk_size: int) -> KVCache:
    """What this rank computes with no communication at all."""
    from mpi_spp.model.batch import one_span
    from mpi_spp.parallel.partition import split_chunks

    layers = range(engine.model.num_hidden_layers)
    cache = engine.new_cache(len(prompt_ids))
    for chunk in split_chunks(len(prompt_ids), chunk_size):
        hidden = engine.stage.embed(torch.tensor(prompt_ids[chunk.start : chunk.stop]))
        engine.stage.forward(hidden, one_span(chunk, cache, len(prompt_ids)), layers)
    return cache


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("decode", registry.choices("decode"))
def test_who_comes_takes_the_room_of_who_has_gone(
    decode: str, models: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more caches of answers are there at once than are asked for, though two answers end together."""
    engine = make_engine(models / "llama_tied", world, kernels="plain", decode=decode)
    caches, most = weakref.WeakSet[KVCache](), 0

    def make(cache: KVCache, *arguments: Any, make: Callable[..., None] = KVCache.__init__, **options: Any) -> None:
        make(cache, *arguments, **options)
        caches.add(cache)

    def count() -> None:
        nonlocal most
        capacity = 3 + 4  # of an answer's cache; a prefill has one of its own where it is split otherwise
        most = max(most, sum(one.held.room(capacity) == one.capacity for one in caches))

    monkeypatch.setattr(KVCache, "__init__", make)

    answers = engine.generate_batch([Request([1, 2, 3], frozenset(), 4) for _ in range(6)], count, most=2)
    assert len(list(answers)) == 6 * 4
    assert 1 <= most <= 2
