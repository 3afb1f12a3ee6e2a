"""Guidance on any number of ranks, in any way that each half of them may work: the tokens of transformers."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import guided_reference
import pytest
import reference_models
import smollm2
import torch
from engines import one_rank_of
from guided_reference import CASES, NAMES, clear_case
from mpi4py import MPI

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World, the_world
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.engine.guidance import Guidance
from mpi_spp.engine.teams import teams_of
from mpi_spp.errors import UserError
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.config import read_config
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage
from mpi_spp.parallel import registry
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.strategies.assignment import load_strategies
from mpi_spp.strategies.sampling.greedy import Greedy
from mpi_spp.strategies.sampling.guided import Guided
from mpi_spp.strategies.sampling.sampler import Sampler
from mpi_spp.system.timings import Clock

FULL = os.environ.get("MPI_SPP_FULL_TESTS") == "1"
SIZE = the_world().size
MESHES = [None, "tp=2"] if SIZE == 4 else [None]
CHUNK_SIZES = (16, 128)
OF_A_TRIPLE = 6  # tokens
TURNS = {1: (0, 3), 2: (1, 3), 3: (2, 3), 4: (0, 2), 5: (1, 2)}  # by ranks: of so many, who takes which

pytestmark = pytest.mark.ranks(3)


def config_of(directory: Path, **options: Any) -> RunConfig:
    settings = {"dtype": "float32", "threads": 1, "device": "cpu", "layer_split": "even", "guidance_scale": 2.0}
    return RunConfig(model=str(directory), **settings | options)


def engine_of(config: RunConfig, world: World) -> Engine:
    directory = Path(config.model)
    return Engine(config, world.on_rank_0(lambda: read_config(directory)), directory, world, Clock())


def answer(engine: Engine, config: RunConfig, prompt: list[int], negative: list[int] | None, most: int) -> list[int]:
    """The same on all ranks, or an error."""
    engine.configure(config, Clock())
    tokens = list(Guidance(engine, negative or prompt[-1:]).generate(prompt, frozenset(), most))
    assert engine.world.gather(tokens) == [tokens] * engine.world.size
    return tokens


def joined(mesh: str | None) -> Iterator[dict[str, str]]:
    """The strategies that both halves can run."""
    verbs = {"prefill": "prefill", "sync": "sync_strategy", "decode": "decode"}
    for names in itertools.product(*map(registry.choices, verbs)):
        options = dict(zip(verbs.values(), names, strict=True))
        config = config_of(Path("any"), mesh=mesh, **options)
        try:
            for team in teams_of(config, SIZE):
                load_strategies(config, team.mesh)
        except UserError:
            continue
        yield options | {"mesh": mesh}


@pytest.fixture(scope="module")
def cases() -> dict[str, list[tuple[list[int], list[int] | None, list[int]]]]:
    """By model: prompt, negative prompt and the tokens of transformers, in the order of CASES."""
    return {name: [clear_case(name, number) for number in range(len(CASES))] for name in NAMES}


@pytest.mark.ranks(1, 2, 3, 4, 5)
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_every_triple(name: str, mesh: str | None, cases: dict[str, Any], models: Path, world: World) -> None:
    """Prompts, scales and chunk sizes take turns, from another one on for every model.

    A triple is tested with one of the models, once on up to three ranks, where that is valid, and once on more.
    """
    engine, first = None, list(cases).index(name)
    triples = list(enumerate(joined(mesh), start=first))
    if not FULL:
        turn, turns = TURNS[SIZE]
        triples = triples[len(cases) * turn + first :: turns * len(cases)]
    for number, options in triples:
        which = number % len(CASES)
        chunks = CHUNK_SIZES[number // len(CASES) % len(CHUNK_SIZES)]
        config = config_of(models / name, guidance_scale=CASES[which][2], chunk_size=chunks, **options)
        engine = engine or engine_of(config, world)
        prompt, negative, expected = cases[name][which]
        tokens = answer(engine, config, prompt, negative, OF_A_TRIPLE)
        assert tokens == expected[:OF_A_TRIPLE], options


def test_one_half_may_have_no_layers_to_split(cases: dict[str, Any], models: Path, world: World) -> None:
    """What layers cost is measured by all ranks all the same."""
    options = {"layer_split": "auto", "chunk_size": 7, "decode": "pipeline", "guidance_scale": CASES[0][2]}
    config = config_of(models / "llama_tied", **options)
    prompt, negative, expected = cases["llama_tied"][0]
    tokens = answer(engine_of(config, world), config, prompt, negative, reference_models.NEW_TOKENS)
    assert tokens == expected


@pytest.mark.ranks(1, 2, 3)
def test_who_has_which_sequence(cases: dict[str, Any], models: Path, world: World) -> None:
    """Halves of the ranks, the conditional one larger; and both end at the stop token."""
    prompt, negative, expected = cases["qwen3"][0]
    config = config_of(models / "qwen3", chunk_size=7, guidance_scale=CASES[0][2])
    engine = engine_of(config, world)
    guidance = Guidance(engine, negative)
    tokens = list(guidance.generate(prompt, frozenset(expected[4:5]), reference_models.NEW_TOKENS))
    assert tokens == expected[: expected.index(expected[4]) + 1]
    names = world.gather([one["sequence"] for one in guidance.prefills])
    first, second = split_evenly(SIZE, 2)
    both = ["conditional", "unconditional"]
    assert names == ([both] if SIZE == 1 else [both[:1]] * len(first) + [both[1:]] * len(second))
    lengths = {"conditional": len(prompt), "unconditional": len(negative)}
    for one in guidance.prefills:
        assert one["prompt_tokens"] == sum(one["chunks"]) == lengths[one["sequence"]]
        assert one["prefill_s"] > 0


@pytest.mark.ranks(2, 5)
def test_no_scores_travel(cases: dict[str, Any], models: Path, world: World) -> None:
    """A token costs a hidden state each way and the candidates of one reduction."""
    engine = engine_of(config_of(models / "qwen3", chunk_size=128, decode="replicated"), world)
    prompt, negative, _ = cases["qwen3"][0]
    sent = []
    for most in (3, 4):
        before = engine.facts()["bytes_sent"]
        answer(engine, engine.config, prompt, negative, most)
        sent.append(engine.facts()["bytes_sent"] - before)
    row, candidate = 4 * engine.model.hidden_size, 8
    first, second = split_evenly(SIZE, 2)
    takers = int(SIZE > 1)
    if SIZE > 1 and len(first) > len(second):  # the odd rank gives to none, and takes what another takes, too
        takers = {first[-1]: 0, second[0]: 2}.get(world.rank, 1)
    assert sent[1] - sent[0] == takers * row + candidate * (SIZE - 1)


@pytest.mark.parametrize("drawing", [(1.3, 0, 1.0), (0.8, 40, 0.9)])
def test_draws_are_those_of_one_rank(
    drawing: tuple[float, int, float], cases: dict[str, Any], models: Path, world: World
) -> None:
    temperature, top_k, top_p = drawing
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 7, "chunk_size": 7}
    config = config_of(models / "llama_tied", **options)
    prompt, negative, _ = cases["llama_tied"][0]
    tokens = [answer(engine_of(config, ranks), config, prompt, negative, 40) for ranks in (world, one_rank_of(world))]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) > 5


BACKENDS = engines.of_all_kinds(torch.bfloat16)


@pytest.mark.parametrize("selection", [Greedy(), Sampler(0.8, 0, 1.0, 11), Sampler(1.2, 40, 0.9, 11)])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_rounded_scores_select_as_on_one_rank(backend: Plain, selection: Any, models: Path, world: World) -> None:
    """A large scale makes the roundings large; the exact scores decide."""
    directory = models / "qwen3_bfloat16_shards"
    config, generator = engines.config_here(directory), torch.Generator().manual_seed(1)
    pairs = torch.randn(300, 2, config.hidden_size, generator=generator)
    pairs[:, 1] = pairs[:, 0] + 0.2 * pairs[:, 1]  # as two sequences with the same answer
    first, _ = split_evenly(SIZE, 2)
    tokens = []
    for comm in (Communicator(world.mpi_comm.Dup(), shares_core=True), Communicator(MPI.COMM_SELF)):
        vocabulary = split_evenly(config.vocab_size, comm.size)[comm.rank]
        device = torch.device("cpu")
        stage = load_stage(Checkpoint(directory), config, {}, vocabulary, torch.bfloat16, device, backend)
        rows = torch.cat(pairs.unbind(1)) if comm.size == 1 else pairs[:, int(comm.rank not in first)].contiguous()
        chosen = Guided(selection, 4.0).select(stage, rows, comm, [0] * len(rows), [*range(300)] * (len(rows) // 300))
        assert len(chosen) == len(rows)
        tokens.append(chosen[:300])
    different = (tokens[0] != tokens[1]).nonzero()[:, 0].tolist()
    assert different == [], f"{len(different)} of 300 tokens differ"


@pytest.mark.full
@pytest.mark.parametrize("decode", ["replicated", "tensor", "pipeline"])
def test_smollm2(decode: str, world: World) -> None:
    directory, reference = world.on_rank_0(smollm2.directory), world.on_rank_0(guided_reference.smollm2_reference)
    config = config_of(directory, guidance_scale=guided_reference.SMOLLM2_SCALE, decode=decode, chunk_size=4)
    prompt, negative, expected = (reference[name] for name in ("prompt_ids", "negative_ids", "token_ids"))
    tokens = answer(engine_of(config, world), config, prompt, negative, guided_reference.SMOLLM2_TOKENS)
    assert tokens == expected
