"""A fact that is planted early in a long text is found after every prefill, as one rank finds it."""

from pathlib import Path

import pytest
import smollm2
import torch

from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.choice import working
from mpi_spp.model.config import read_config
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel import registry
from mpi_spp.request import Request
from mpi_spp.system.timings import Clock

FACT, QUESTION, ANSWER = (
    # Said twice: once is too little for a model of this size in 7,600 tokens, on one rank too.
    "The secret number of the harbour safe is 4817. Remember: the secret number of the harbour safe is 4817.",
    "What is the secret number of the harbour safe?",
    "4817",
)
COPIES = {4000: 7, 7500: 12}  # of the story, for more tokens than that; the model sees 8,192
NEW_TOKENS = 16

pytestmark = [pytest.mark.full, pytest.mark.ranks(3)]


@pytest.fixture(scope="module")
def engine(world: World) -> Engine:
    directory = world.on_rank_0(smollm2.directory)
    model = world.on_rank_0(lambda: read_config(directory))
    return Engine(config_of(directory, "pipeline"), model, directory, world, Clock())


def config_of(directory: Path, prefill: str) -> RunConfig:
    """In bfloat16 where its kernels give the same bits on any number of ranks."""
    exact = any(map(is_native, working(torch.bfloat16, torch.device("cpu"), cache_directory() / "kernels")))
    kernels = {"dtype": "bfloat16", "kernels": "native"} if exact else {"dtype": "float32"}
    return RunConfig(model=str(directory), device="cpu", threads=1, chunk_size=512, prefill=prefill, **kernels)


@pytest.fixture(scope="module", params=COPIES)
def prompt_ids(request: pytest.FixtureRequest, world: World) -> list[int]:
    """The story again and again; the first time with the fact in its middle."""
    from transformers import AutoTokenizer

    story = smollm2.TEXT.read_text(encoding="utf-8")
    middle = story.index(". ", len(story) // 2) + 2
    text = "\n\n".join([f"{story[:middle]}{FACT} {story[middle:]}", *[story] * (COPIES[request.param] - 1), QUESTION])
    tokenizer = AutoTokenizer.from_pretrained(world.on_rank_0(smollm2.directory))
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert len(ids) > request.param
    return ids


@pytest.fixture(scope="module")
def of_one_rank(engine: Engine, prompt_ids: list[int]) -> list[int]:
    """The answer after this rank has computed the whole prompt by itself."""
    cache = engine.new_cache(len(prompt_ids) + NEW_TOKENS)
    hidden = engine.prefill_alone(prompt_ids, 0, cache)
    request = Request(prompt_ids, frozenset(), NEW_TOKENS)
    return [token for _, token in engine.decode([request], [cache], hidden)]


@pytest.mark.parametrize("prefill", registry.choices("prefill"))
def test_the_needle_is_found(prefill: str, engine: Engine, prompt_ids: list[int], of_one_rank: list[int]) -> None:
    from transformers import AutoTokenizer

    directory = Path(engine.config.model)
    assert ANSWER in AutoTokenizer.from_pretrained(directory).decode(of_one_rank)
    engine.configure(config_of(directory, prefill), Clock())
    assert list(engine.generate(prompt_ids, frozenset(), NEW_TOKENS)) == of_one_rank
