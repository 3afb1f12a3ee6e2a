"""Forecasts against engines: the bytes are the same; and "auto" is the same choice on all ranks."""

from pathlib import Path

import pytest
import reference_models
from turns import every_other

from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.entrypoints.opening import make_engine
from mpi_spp.errors import UserError
from mpi_spp.forecast.forecast import forecast
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.forecast.speeds import assumed
from mpi_spp.model.config import read_config
from mpi_spp.parallel.mesh import mesh_of
from mpi_spp.system.timings import Clock

pytestmark = pytest.mark.ranks(3)

PROMPT_TOKENS, NEW_TOKENS = 37, 5
CASES = [
    ("pipeline", "replicated", "pairwise", {}),
    ("pipeline", "replicated", "shared", {}),
    ("pipeline", "tensor", "auto", {"kv_cache_dtype": "int8"}),
    ("pipeline", "pipeline", "auto", {"dtype": "bfloat16"}),
    ("tensor", "pipeline", "auto", {"quantize": "int8", "dtype": "bfloat16"}),
    ("tensor", "tensor", "auto", {"dtype": "bfloat16", "quantize": "int4"}),
    ("ulysses", "tensor", "auto", {"dtype": "bfloat16"}),
    ("ulysses", "pipeline", "auto", {"kv_cache_dtype": "int8"}),
    ("ulysses", "replicated", "auto", {"chunk_size": 3}),
    ("ring", "context", "auto", {"dtype": "bfloat16"}),
    ("ring", "tensor", "auto", {}),
    ("pipeline", "context", "auto", {"kv_cache_dtype": "int8"}),
    ("usp", "context", "auto", {}),
]
INSIDE = [(prefill, decode) for prefill in ("ring", "usp", "ulysses") for decode in ("tensor", "context")]


@pytest.fixture(scope="module")
def elsewhere(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.on_rank_0(lambda: tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def kept_elsewhere(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of tiny models, measured beside other tests, are nothing to remember for longer than these."""
    monkeypatch.setattr("mpi_spp.engine.measuring.cache_directory", lambda: elsewhere)


@pytest.fixture(scope="session")
def model(models: Path) -> Path:
    return models / "llama_tied"


def open_engine(model: Path, world: World, **options: object) -> Engine:
    fixed = {"layer_split": "even", "chunk_size": 8}  # a rank may come out behind its like in these tests
    settings = {"model": str(model), "dtype": "float32", "device": "cpu", "threads": 1} | fixed | options
    shape = world.on_rank_0(lambda: read_config(model))
    return make_engine(RunConfig(**settings), shape, model, world, Clock(), PROMPT_TOKENS)


@pytest.mark.parametrize("prefill, decode, sync, options", CASES)
def test_bytes_are_those_of_the_engine(
    prefill: str, decode: str, sync: str, options: dict[str, str], model: Path, world: World
) -> None:
    check_bytes(model, world, prefill=prefill, decode=decode, sync_strategy=sync, **options)


@pytest.mark.ranks(4)
@pytest.mark.parametrize("prefill, decode", INSIDE)
def test_bytes_of_groups_inside_a_mesh(prefill: str, decode: str, model: Path, world: World) -> None:
    """Of two ranks each, or of all where these are few."""
    tp = 2 if world.size % 2 == 0 else world.size
    check_bytes(model, world, prefill=prefill, decode=decode, mesh=f"pp={world.size // tp},tp={tp}")


@pytest.mark.parametrize(
    "spread, name, options",
    every_other(
        [False, True],
        ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe_one_kv_head"],
        [{}, {"dtype": "bfloat16", "quantize": "int8"}],
    ),
)
def test_bytes_with_experts_are_those_of_the_engine(
    options: dict[str, str], name: str, spread: bool, models: Path, world: World
) -> None:
    mesh = f"ep={world.size}" if spread else None
    check_bytes(models / name, world, prefill="pipeline", decode="tensor", mesh=mesh, **options)


@pytest.mark.parametrize("prefill, name", every_other(["ulysses", "ring"], ["mixtral", "qwen2_moe", "olmoe"]))
def test_bytes_where_tokens_go_to_their_experts(name: str, prefill: str, models: Path, world: World) -> None:
    """As many as even use of the experts would need, about: which ones these prompts take is for them to say."""
    options = {"prefill": prefill, "decode": "tensor", "mesh": f"ep={world.size}"}
    check_bytes(models / name, world, tolerance=0.25, **options)


def check_bytes(model: Path, world: World, tolerance: float = 0.0, **options: object) -> None:
    engine = open_engine(model, world, **options)
    ids = reference_models.prompt_of("llama_tied", PROMPT_TOKENS)
    before = engine.facts()["bytes_sent"]
    engine.prefill(ids, engine.new_cache(PROMPT_TOKENS))
    prefill_sent = engine.facts()["bytes_sent"] - before
    engine.kv_comm.bytes_sent = 0
    assert len(list(engine.generate(ids, frozenset(), NEW_TOKENS))) == NEW_TOKENS
    hosts, facts = world.gather(world.host), engine.facts()
    mesh, dtype = mesh_of(engine.config.mesh, world.size), engine.stage.dtype
    scenario = Scenario(
        engine.config, engine.model, mesh, hosts, dtype, facts["kernels"], PROMPT_TOKENS, NEW_TOKENS,
        assumed(engine.model, hosts),
    )  # fmt: skip
    found = forecast(scenario)
    memory = found.memory[world.rank]
    assert (memory.weights, memory.cache) == (facts["weights_bytes"], facts["cache_bytes"])
    assert found.sync[world.rank].sent == facts["kv_bytes_sent"]
    sent, expected = prefill_sent, found.prefill[world.rank].sent + found.sync[world.rank].sent
    if tolerance:
        sent, expected = (sum(world.gather(count)) for count in (sent, expected))
    assert sent == pytest.approx(expected, rel=tolerance)


def test_auto_is_the_same_on_all_ranks(model: Path, world: World) -> None:
    engine = open_engine(model, world, prefill="auto", decode="auto", sync_granularity="auto")
    config = engine.config
    chosen = world.gather((config.prefill, config.decode, config.sync_granularity, engine.choice))
    assert chosen == chosen[:1] * world.size
    assert "auto" not in chosen[0][:3] and engine.choice["reason"]
    ids = reference_models.prompt_of("llama_tied", PROMPT_TOKENS)
    tokens = list(engine.generate(ids, frozenset(), NEW_TOKENS))
    assert world.gather(tokens) == [tokens] * world.size


def test_what_does_not_fit_is_refused_on_all_ranks(model: Path, world: World) -> None:
    with pytest.raises(UserError, match="--max-memory"):
        open_engine(model, world, decode="auto", max_memory=1 << 20)
