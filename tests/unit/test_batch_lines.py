"""Lines of a batch's input: what they may say, and what is told of those that cannot be answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpi_spp.batch.lines import Line, id_of, parse_line, read_lines, read_object
from mpi_spp.errors import UserError

HELLO = [{"role": "user", "content": "Hello"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"prompt": "Hello"}, Line(prompt="Hello")),
        ({"prompt": "Hello", "max_new_tokens": 5, "category": "greeting"}, Line(prompt="Hello", max_new_tokens=5)),
        ({"prompt": "Hello", "messages": None, "temperature": None}, Line(prompt="Hello")),
        ({"prompt_ids": [0, 7]}, Line(prompt_ids=[0, 7])),
        ({"prompt": [0, 7]}, Line(prompt_ids=[0, 7])),
        ({"messages": HELLO}, Line(messages=HELLO)),
        ({"messages": PARTS}, Line(messages=HELLO)),
        (
            {
                "custom_id": "a",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"messages": HELLO, "model": "m"},
            },
            Line(messages=HELLO),
        ),
        ({"body": {"prompt": "Hello", "max_tokens": 3}}, Line(prompt="Hello", max_new_tokens=3)),
        ({"body": {"prompt": "Hello", "max_completion_tokens": 4}}, Line(prompt="Hello", max_new_tokens=4)),
    ],
)
def test_what_a_line_may_say(fields: dict[str, Any], line: Line) -> None:
    assert parse_line(fields) == line


@pytest.mark.parametrize(
    "fields, says",
    [
        ({}, "give exactly one of prompt, prompt_ids and messages (found: none)"),
        ({"prompt": "a", "messages": HELLO}, "(found: prompt and messages)"),
        ({"prompt": ""}, "prompt: is empty"),
        ({"prompt": " \n"}, "prompt: is empty"),
        ({"prompt": 7}, "prompt: int is no text"),
        ({"prompt": "\ud83d"}, "prompt: has half a character"),
        ({"prompt_ids": []}, "prompt_ids: is no list"),
        ({"prompt_ids": [1, True]}, "prompt_ids: is no list"),
        ({"prompt_ids": "1, 2"}, "prompt_ids: is no list"),
        ({"messages": []}, "messages: is no list"),
        ({"messages": ["Hello"]}, "messages: each needs a role and a content"),
        ({"messages": [{"role": "user"}]}, "messages: NoneType is no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages: only parts of text"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: 0 is no number of tokens"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens: '5' is no number of tokens"),
        ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens: True is no number of tokens"),
        ({"body": "a"}, "body: is no JSON object"),
        ({"body": {"prompt": "a", "temperature": 0.7}}, "temperature: cannot be set for one line"),
    ],
)
def test_what_is_wrong_with_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_line(fields)
    assert says in str(error.value)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"caf\xe9", b"[" * 100_000, b"1" * 10_000, b"nope"])
def test_a_line_that_is_no_object(line: bytes) -> None:
    with pytest.raises(UserError):
        read_object(line)


def test_the_users_own_name_of_a_line() -> None:
    assert [id_of(fields) for fields in ({"id": 7}, {"custom_id": "a"}, {})] == [7, "a", None]


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    """Blank lines count and ask for nothing; a mark of UTF-8 and a carriage return are no part of a line."""
    text = json.dumps({"prompt": "a\x0b\u2028b"}, ensure_ascii=False)
    (tmp_path / "input").write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\n  \n{text}".encode())
    lines = read_lines(tmp_path / "input")
    assert [(number, read_object(line)) for number, line in lines] == [(number, json.loads(text)) for number in (1, 4)]


def test_an_input_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input: .* cannot be read"):
        read_lines(tmp_path / "input")
