"""Fan-out: on any number of ranks every sequence gets the tokens that it gets alone, and no rank waits for another."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import reference_models

from mpi_spp.comm.world import World
from mpi_spp.config import GRANULARITIES, RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.engine.fan_out import decode_alone, fan_out, numbers_of, prefill_prefix
from mpi_spp.errors import UserError
from mpi_spp.model.config import read_config
from mpi_spp.parallel import registry
from mpi_spp.request import Request
from mpi_spp.system.timings import Clock

pytestmark = pytest.mark.ranks(3)

MODELS = ("mistral_window", "qwen2_yarn_rope")  # of the families they differ most in how they see positions
DOCUMENT_TOKENS = 37  # three chunks
NEW_TOKENS = 6


def engine_of(directory: Path, world: World, alone: bool = True, **options: object) -> Engine:
    settings = {"dtype": "float32", "device": "cpu", "threads": 1, "layer_split": "even", "chunk_size": 16} | options
    config = RunConfig(model=str(directory), **settings)
    model = world.on_rank_0(lambda: read_config(directory))
    return Engine(config, model, directory, world, Clock(), alone=alone)


def prompts_of(name: str) -> dict[str, list[list[int]]]:
    """Questions about one document, of all kinds."""
    document = reference_models.prompt_of(name, DOCUMENT_TOKENS)
    short, long, other = [5, 6], [5, 6, 7, 8, 9] * 3, [9]
    return {
        "different": [document + tail for tail in ([*short, 1], long, other, [1, 2, 3], [130, 0], [4, 4])],
        "one": [document + long],
        "equal": [document + short] * 3,
        "one within another": [document + long, document, document + short],
        "nothing but the first token": [document[:1], document[:1] + other],
    }


def requests_of(prompts: Sequence[list[int]], stop_ids: frozenset[int] = frozenset()) -> list[Request]:
    """The answers end at different lengths."""
    return [Request(prompt, stop_ids, NEW_TOKENS - number % 3, number) for number, prompt in enumerate(prompts)]


def each_alone(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """By all ranks together, one request after another."""
    return [list(engine.generate(one.prompt_ids, one.stop_ids, one.max_new_tokens)) for one in requests]


def fanned_out(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The answers, when they are the same on all ranks and what each rank showed was its own."""
    shown: dict[int, list[int]] = {}
    answers = fan_out(engine, requests, lambda number, token: shown.setdefault(number, []).append(token))
    assert engine.world.gather(answers) == [answers] * engine.world.size
    assert answers.errors == {}
    of_ranks = engine.world.gather(shown)
    assert [number for of_rank in of_ranks for number in of_rank] == list(range(len(requests)))
    assert shown == {number: answers.tokens[number] for number in shown}
    return answers.tokens


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("name", MODELS)
def test_every_question_is_answered_as_alone(name: str, models: Path, world: World) -> None:
    """With fewer questions than ranks too."""
    engine, together = engine_of(models / name, world), engine_of(models / name, world, alone=False)
    for kind, prompts in prompts_of(name).items():
        expected = each_alone(together, requests_of(prompts))
        assert fanned_out(engine, requests_of(prompts)) == expected, kind


def test_a_stop_token_ends_an_answer(models: Path, world: World) -> None:
    """The next one of the same rank begins with its own prompt."""
    engine, prompts = engine_of(models / "qwen2", world), prompts_of("qwen2")["different"]
    expected = fanned_out(engine, requests_of(prompts))
    stop = expected[0][2]
    cut = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in expected]
    assert cut[0] != expected[0]
    assert fanned_out(engine, requests_of(prompts, frozenset([stop]))) == cut


def test_every_way_to_the_whole_cache(models: Path, world: World) -> None:
    """Each prefill with each sync that joins it, and each granularity."""
    name = "mistral_window"
    requests = requests_of(prompts_of(name)["different"])
    engine = engine_of(models / name, world)
    expected = fanned_out(engine, requests)
    ways = itertools.product(registry.choices("prefill"), registry.choices("sync"))
    for number, (prefill, sync) in enumerate(ways):
        options = {"prefill": prefill, "sync_strategy": sync, "sync_granularity": GRANULARITIES[number % 3]}
        config = RunConfig(**(vars(engine.config) | options))
        try:
            engine.configure(config, Clock())
        except UserError:
            continue
        assert fanned_out(engine, requests) == expected, options


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
def test_ranks_need_no_message_of_one_another(kv_cache_dtype: str, models: Path, world: World) -> None:
    """They work one after another, each while all others wait at a barrier: a message would never be answered."""
    requests = requests_of(prompts_of("qwen2_yarn_rope")["different"])
    engine = engine_of(models / "qwen2_yarn_rope", world, kv_cache_dtype=kv_cache_dtype)
    prefix, answers = prefill_prefix(engine, requests), [list[int]() for _ in requests]
    sent = engine.facts()["bytes_sent"]
    for rank in range(world.size):
        if rank == world.rank:
            for number, token in decode_alone(engine, prefix, requests, numbers_of(rank, world.size, len(requests))):
                answers[number].append(token)
        world.mpi_comm.Barrier()
    assert engine.facts()["bytes_sent"] == sent
    gathered = fanned_out(engine, requests)
    assert all(answers[number] == gathered[number] for number in numbers_of(world.rank, world.size, len(requests)))


@pytest.mark.parametrize("way", [{}, {"top_k": 20, "top_p": 0.9}], ids=str)
def test_draws_do_not_depend_on_the_ranks(way: dict[str, object], models: Path, world: World) -> None:
    """Every rank makes all continuations; shared out over the ranks they are the same. The first is the usual draw."""
    prompt, count = reference_models.prompt_of("qwen2", DOCUMENT_TOKENS), 5
    requests = [Request(prompt, frozenset(), NEW_TOKENS, number) for number in range(count)]
    draws = {"temperature": 1.5, "seed": 3, **way}
    engine = engine_of(models / "qwen2", world, **draws)
    expected = [list[int]() for _ in requests]
    for number, token in decode_alone(engine, prefill_prefix(engine, requests), requests, range(count)):
        expected[number].append(token)
    assert len({tuple(tokens) for tokens in expected}) == count
    assert fanned_out(engine, requests) == expected
    assert each_alone(engine_of(models / "qwen2", world, alone=False, **draws), requests[:1]) == expected[:1]


@pytest.mark.parametrize("decode", ["tensor", "pipeline"])
def test_a_decode_that_splits_the_cache_is_refused(decode: str, models: Path, world: World) -> None:
    if world.size == 1:
        pytest.skip("one rank has the whole cache")
    with pytest.raises(UserError, match=f"--decode: {decode} splits the cache"):
        engine_of(models / "qwen2", world, decode=decode)
