"""What clients of the server may ask, and how they are told what they may not."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import reciting_model

from mpi_spp.batch.encoder import Encoder
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.openai.protocol import Reader, Refused, answer, last_piece, piece
from mpi_spp.model.config import ModelConfig
from mpi_spp.request import Draws

POSITIONS, VOCAB_SIZE = 300, 258
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    directory = tmp_path_factory.mktemp("model")
    reciting_model.make_tokenizer().save_pretrained(directory)
    shape = cast(ModelConfig, SimpleNamespace(vocab_size=VOCAB_SIZE, max_positions=POSITIONS))

    def encoder(**options: Any) -> Encoder:
        return Encoder(RunConfig(model="m", **options), shape, directory)

    return Reader(encoder(), encoder(chat=False), "m")


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_chat_has_the_template_and_a_completion_has_not(reader: Reader) -> None:
    chat, text = reader.chat(body(messages=HI)), reader.completion(body(prompt="hi"))
    assert len(chat.requests[0].prompt_ids) > len(text.requests[0].prompt_ids) == 2
    assert (chat.is_chat, text.is_chat, chat.streams) == (True, False, False)
    assert chat.id.startswith("chatcmpl-") and text.id.startswith("cmpl-")
    assert reader.token_ids(body(prompt="hi")) == text.requests[0].prompt_ids
    assert reader.token_ids(body(messages=HI)) == chat.requests[0].prompt_ids
    assert reader.text(body(tokens=text.requests[0].prompt_ids)) == "hi"


def test_choices_draw_apart_and_a_seed_repeats_them(reader: Reader) -> None:
    asked = reader.chat(body(messages=HI, n=3, temperature=0.5, seed=7, max_tokens=4))
    again = reader.chat(body(messages=HI, n=3, temperature=0.5, seed=7, max_tokens=4))
    assert asked.requests == again.requests
    assert [one.stream for one in asked.requests] == [0, 1, 2]
    assert {one.draws for one in asked.requests} == {Draws(0.5, 0, 1.0, 7)}
    assert asked.prompt_tokens == len(asked.requests[0].prompt_ids)
    first, second = (reader.chat(body(messages=HI, n=2, temperature=0.5)) for _ in range(2))
    assert len({one.stream for asked in (first, second) for one in asked.requests}) == 4


def test_several_prompts_are_several_choices(reader: Reader) -> None:
    asked = reader.completion(body(prompt=["hi", "you"], n=2))
    assert [len(one.prompt_ids) for one in asked.requests] == [2, 2, 3, 3]
    assert asked.prompt_tokens == 5
    ids = reader.completion(body(prompt=[[1, 2], [3]])).requests
    assert [one.prompt_ids for one in ids] == [[1, 2], [3]]
    assert reader.completion(body(prompt=[1, 2])).requests[0].prompt_ids == [1, 2]


@pytest.mark.parametrize(
    "fields, status, says, param",
    [
        ({}, 400, "messages: is missing", "messages"),
        ({"messages": HI, "model": "other"}, 404, "model: 'other' is not here; give 'm'", "model"),
        ({"messages": HI, "n": 0}, 400, "n: 0 is no number from 1 to 128", "n"),
        ({"messages": HI, "n": True}, 400, "n: True is no number", "n"),
        ({"messages": HI, "stream": "yes"}, 400, "stream: 'yes' is neither true nor false", "stream"),
        (
            {"messages": HI, "stream_options": {}},
            400,
            "stream_options: is an object, for answers that",
            "stream_options",
        ),
        ({"messages": HI, "stop": ["a"]}, 400, "stop: cannot be had; leave it out", "stop"),
        ({"messages": HI, "max_tokens": "a"}, 400, "max_tokens: 'a' is no number of tokens", "max_tokens"),
        ({"messages": HI, "temperature": -1}, 400, "temperature: -1 is no finite number", "temperature"),
        ({"messages": HI, "color": 1}, 400, "color: is not known here", "color"),
        ({"messages": "hi"}, 400, "messages: is no list", "messages"),
        ({"messages": [{"role": "user", "content": "a" * 400}]}, 400, "positions", None),
    ],
)
def test_what_is_refused_is_named(
    reader: Reader, fields: dict[str, Any], status: int, says: str, param: str | None
) -> None:
    with pytest.raises(Refused) as caught:
        reader.chat(body(**fields))
    assert caught.value.status == status and says in caught.value.message
    error = caught.value.told()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b"\xff", b'{"n": 1, "n": 2}'])
def test_bodies_that_are_no_objects(reader: Reader, content: bytes) -> None:
    with pytest.raises(Refused, match="the body"):
        reader.chat(content)


def test_what_clients_read(reader: Reader) -> None:
    asked = reader.chat(body(messages=HI, stream=True, stream_options={"include_usage": True}))
    told = answer(asked, ["a"], ["stop"], 2)
    assert told["choices"][0]["message"] == {"role": "assistant", "content": "a"}
    assert told["usage"]["total_tokens"] == asked.prompt_tokens + 2
    first, end = (
        json.loads(one.removeprefix("data: ")) for one in (piece(asked, 0, "", None, True), last_piece(asked, 2))
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""} and first["usage"] is None
    assert end["choices"] == [] and end["usage"]["completion_tokens"] == 2
