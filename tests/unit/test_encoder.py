"""Lines of a batch as requests: what holds for all lines, what each may say, and where the model's limits are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import reciting_model

from mpi_spp.batch.encoder import Encoder
from mpi_spp.batch.lines import parse_line
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.request import Draws, Penalties

TEMPLATE = (
    reciting_model.TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
POSITIONS, VOCAB_SIZE = 300, 258
START, END = "<|im_start|>", "<|im_end|>"
HI = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    reciting_model.make_tokenizer(TEMPLATE).save_pretrained(directory)
    (directory / "generation_config.json").write_text('{"repetition_penalty": 1.2, "eos_token_id": 7}')
    return directory


def encoder_of(directory: Path, vocab_size: int = VOCAB_SIZE, **options: Any) -> Encoder:
    shape = cast(ModelConfig, SimpleNamespace(vocab_size=vocab_size, max_positions=POSITIONS))
    return Encoder(RunConfig(model="m", **options), shape, directory)


def text_of(encoder: Encoder, **fields: Any) -> str:
    ids = encoder.request(parse_line(fields), 1).prompt_ids
    return cast(str, reciting_model.make_tokenizer().decode(ids))


def test_penalties_are_those_of_the_line_else_of_the_run(model: Path) -> None:
    encoder = encoder_of(model, presence_penalty=0.5)
    for fields, expected in (
        ({}, Penalties(1.2, 0.5, 0.0)),
        ({"presence_penalty": 0}, Penalties(1.2, 0.0, 0.0)),
        ({"repetition_penalty": 1, "frequency_penalty": 1.5}, Penalties(1.0, 0.5, 1.5)),
    ):
        assert encoder.request(parse_line({"prompt": "hi", **fields}), 1).penalties == expected


def test_messages_reach_the_template_as_they_are(model: Path) -> None:
    """Empty ones too, and variables of the line come before those of the command."""
    encoder = encoder_of(model, system="Be brief.", chat_template_kwargs={"enable_thinking": False})
    start, brief = f"{START}user\nhi{END}\n{START}assistant\n", f"{START}system\nBe brief.{END}\n"
    assert text_of(encoder, prompt="hi") == brief + start + "<think></think>"
    assert text_of(encoder, prompt="hi", chat_template_kwargs={"enable_thinking": True}) == brief + start
    messages = [{"role": "system", "content": ""}, HI, {"role": "assistant", "content": ""}, HI]
    turns = f"{START}system\n{END}\n{START}user\nhi{END}\n{START}assistant\n{END}\n"
    assert text_of(encoder, messages=messages) == turns + start + "<think></think>"


@pytest.mark.parametrize(
    "options, fields, says",
    [
        ({}, {"messages": [HI | {"name": "Ann"}]}, "messages: the model's chat template has no use for name"),
        ({}, {"messages": [HI | {"tool_calls": []}]}, "messages: the model's chat template has no use for tool_calls"),
        ({}, {"messages": [HI], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs: the model's chat template"),
        ({"chat": False}, {"messages": [HI]}, "messages: need a model with a chat template"),
        ({"chat": False}, {"prompt": "a", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs: need a model with"),
        ({"ignore_eos": True}, {"prompt": "a", "ignore_eos": False}, "ignore_eos: false cannot be had for one line"),
        ({}, {"prompt": "a" * 5000}, "prompt: has 5000 characters, far more than the model's 300 positions hold"),
        ({}, {"messages": [HI, HI | {"content": "a" * 5000}]}, "messages: has 5000 characters"),
        ({}, {"prompt": "a" * 300}, "tokens, but the model has 300 positions"),
        ({}, {"prompt_ids": [VOCAB_SIZE]}, "prompt_ids: the model knows token ids from 0 to 257"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_model_cannot_be_asked(options: dict[str, Any], fields: dict[str, Any], says: str, model: Path) -> None:
    with pytest.raises(UserError) as caught:
        encoder_of(model, **options).request(parse_line(fields), 1)
    assert says in str(caught.value)


def test_draws_are_those_of_the_line_else_of_the_run(model: Path) -> None:
    encoder = encoder_of(model, temperature=0.7, seed=3, top_k=5)
    for fields, draws, stream in (
        ({}, None, 9),
        ({"temperature": 0}, Draws(0, 5, 1.0, 3), 9),
        ({"top_p": 0.9}, Draws(0.7, 5, 0.9, 3), 9),
        ({"seed": 4}, Draws(0.7, 5, 1.0, 4), 0),  # the same answer wherever the line stands
    ):
        request = encoder.request(parse_line({"prompt": "hi", **fields}), 9)
        assert (request.draws, request.stream) == (draws, stream)


def test_lines_that_want_a_seed_and_bring_none_have_one(model: Path) -> None:
    encoder = encoder_of(model)
    line = parse_line({"prompt": "hi", "temperature": 1})
    first, second = (encoder.request(line, number) for number in (1, 2))
    assert first.draws == second.draws != encoder_of(model).request(line, 1).draws
    assert first.draws is not None and first.draws.seed is not None and first.stream != second.stream


def test_a_line_may_go_on_behind_the_end(model: Path) -> None:
    encoder = encoder_of(model)
    assert encoder.request(parse_line({"prompt": "hi", "ignore_eos": True}), 1).stop_ids == frozenset()
    assert 7 in encoder.request(parse_line({"prompt": "hi", "ignore_eos": False}), 1).stop_ids


def test_a_tokenizer_with_more_tokens_than_the_model_spoils_one_line(model: Path) -> None:
    """The template's marks have ids that the model does not know; the words have not."""
    with pytest.raises(UserError, match="the tokenizer gives id 257, but the model knows only 256"):
        encoder_of(model, vocab_size=256).request(parse_line({"prompt": "hi"}), 1)
    assert encoder_of(model, vocab_size=256, chat=False).request(parse_line({"prompt": "hi"}), 1).prompt_ids
