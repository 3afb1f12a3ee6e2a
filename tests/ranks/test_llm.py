"""The face for Python gives the tokens of the engine, whatever the shape of its prompts."""

from pathlib import Path

import pytest
import reference_models

from mpi_spp import LLM, Completion, SamplingParams, UserError
from mpi_spp.comm.world import World

pytestmark = pytest.mark.ranks(1, 3)

NAME, EXACT = "llama_tied", {"dtype": "float32", "kernels": "plain", "threads": 1}
LENGTHS, NEW = reference_models.PROMPT_LENGTHS, reference_models.NEW_TOKENS


@pytest.fixture(scope="module")
def llm(models: Path) -> LLM:
    return LLM(str(models / NAME), max_num_seqs=2, chunk_size=16, **EXACT)


def test_answers_are_those_of_transformers(llm: LLM, models: Path, world: World) -> None:
    """More prompts than are answered at once; what other ranks than the first pass is not read."""
    prompts = [reference_models.prompt_of(NAME, length) for length in LENGTHS]
    answers = llm.generate(prompts if world.rank == 0 else [[1]], SamplingParams(max_tokens=NEW))
    expected = [reference_models.reference_tokens(models, NAME, length) for length in LENGTHS]
    assert answers == [Completion(None, *both) for both in zip(expected, ["length"] * 3, prompts, strict=True)]
    assert (llm.rank, llm.num_ranks) == (world.rank, world.size)


def test_one_prompt_is_several_of_one(llm: LLM) -> None:
    few = SamplingParams(max_tokens=2)
    assert llm.generate([3, 1, 4], few) == llm.generate([[3, 1, 4]], few)


def test_a_seed_repeats_draws_and_greedy_answers_come_again(llm: LLM) -> None:
    prompts, drawn = [[5, 6, 7]] * 3, SamplingParams(max_tokens=8, temperature=1.5, seed=4)
    few = SamplingParams(max_tokens=2)
    greedy, first = llm.generate(prompts, few), llm.generate(prompts, drawn)
    assert llm.generate(prompts, drawn) == first
    assert len({tuple(one.token_ids) for one in first}) == 3  # each prompt has draws of its own
    assert llm.generate(prompts, few) == greedy


def test_each_prompt_may_be_drawn_in_its_own_way(llm: LLM) -> None:
    """And has the tokens that it gets with others of its kind."""
    prompt, ways = [5, 6, 7], [
        SamplingParams(max_tokens=6),
        SamplingParams(max_tokens=6, temperature=1.5, seed=4),
        SamplingParams(max_tokens=4, temperature=0.9, top_k=5, seed=4, ignore_eos=True),
        SamplingParams(max_tokens=6),
    ]  # fmt: skip
    together = llm.generate([prompt] * 4, ways)
    for number, way in enumerate(ways):
        assert together[number] == llm.generate([prompt] * 4, way)[number]


@pytest.mark.parametrize(
    "prompts, says",
    [
        ("Hello", "no tokenizer"),
        ([[1], []], "prompt_ids: is no list of one or more token ids"),
        ([[1], [10**6]], "prompt_ids: the model knows token ids from 0"),
        ([{"role": "user"}], "messages: each needs a role and a content"),
        ([[1] * 5000], "positions"),
        (7, "prompts: int is no prompt"),
        (b"hi", "prompts: bytes is no prompt"),
    ],
)
def test_bad_prompts_are_refused_on_all_ranks(llm: LLM, prompts: object, says: str) -> None:
    """And the next ones are answered."""
    with pytest.raises(UserError, match=says):
        llm.generate(prompts)  # type: ignore[arg-type]
    assert llm.generate([1, 2], SamplingParams(max_tokens=1))


@pytest.mark.ranks(3)
def test_ranks_that_make_other_calls(llm: LLM, world: World, models: Path) -> None:
    """And those that make the same ones again are answered."""
    with pytest.raises(UserError, match=r"apart: ranks 0, 2 at generate\(\), call \d+ of an LLM; rank 1 at stream\(\)"):
        list(llm.stream([1])) if world.rank == 1 else llm.generate([1])
    with pytest.raises(UserError, match=r"^chunk_size: 8 on rank 0, and 9 on rank 2; all ranks must give the same"):
        LLM(str(models / NAME), chunk_size=9 if world.rank == 2 else 8)
    assert llm.generate([1, 2], SamplingParams(max_tokens=1))


def test_parameters_of_another_kind_are_refused(llm: LLM) -> None:
    with pytest.raises(UserError, match="params: dict is no SamplingParams"):
        llm.generate([1], {"max_tokens": 2})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="params: 2 for 1 prompts; give one for each, or one for all"):
        llm.generate([1], [SamplingParams()] * 2)
    with pytest.raises(UserError, match="params: int is no SamplingParams"):
        llm.generate([1], [7])  # type: ignore[list-item]


def test_what_a_model_cannot_be_opened_with(models: Path) -> None:
    with pytest.raises(TypeError, match="'temperature'; it belongs to SamplingParams"):
        LLM(str(models / NAME), temperature=1.0)
    with pytest.raises(TypeError, match="'prompt'"):
        LLM(str(models / NAME), prompt="Hello")
    with pytest.raises(UserError, match=r"^sync_strategy: 'gossip' is unknown"):
        LLM(str(models / NAME), sync_strategy="gossip")
    with pytest.raises(UserError, match="threads: '2' is of type str"):
        LLM(str(models / NAME), threads="2")
    with pytest.raises(UserError, match="max_memory: '8 apples' is no amount of memory"):
        LLM(str(models / NAME), max_memory="8 apples")
    with pytest.raises(UserError, match="max_num_seqs"):
        LLM(str(models / NAME), max_num_seqs=0)
