"""Lines of a batch's input: what they may say, and what is told of those that cannot be answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpi_spp.batch.lines import Line, id_of, parse_line, read_lines, read_object
from mpi_spp.errors import UserError

HELLO = [{"role": "user", "content": "Hello"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
EMPTY = [{"role": "system", "content": ""}, *HELLO, {"role": "assistant", "content": ""}, *HELLO]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
}
READ_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
}
TOOL = Line(messages=[{"role": "tool", "content": "7", "name": "f"}])
USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"prompt": "Hello"}, Line(prompt="Hello")),
        (
            {"prompt": "Hello", "max_new_tokens": 5, "metadata": {"category": "greeting"}},
            Line(prompt="Hello", max_new_tokens=5),
        ),
        ({"prompt": "Hello", "messages": None, "temperature": None}, Line(prompt="Hello")),
        (
            {
                "prompt": "a",
                "n": 1,
                "stream": False,
                "stop": [],
                "tools": [],
                "logit_bias": {},
                "min_p": 0,
                "user": "u",
            },
            Line(prompt="a"),
        ),
        (
            {
                "prompt": "a",
                "presence_penalty": 0.5,
                "frequency_penalty": 1,
                "repetition_penalty": 1.2,
                "temperature": 0,
            },
            Line(
                prompt="a",
                penalties={"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 1.0},
                draws={"temperature": 0},
            ),
        ),
        (
            {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}},
            Line(messages=HELLO, chat_template_kwargs={"enable_thinking": False}),
        ),
        (
            {"prompt": "a", "temperature": 0.7, "top_k": -1, "top_p": 0.9, "seed": 3, "ignore_eos": True},
            Line(prompt="a", draws={"temperature": 0.7, "top_k": 0, "top_p": 0.9, "seed": 3}, ignore_eos=True),
        ),
        ({"messages": EMPTY}, Line(messages=EMPTY)),
        ({"messages": [CALL]}, Line(messages=[READ_CALL])),
        ({"messages": [{"role": "tool", "content": "7", "name": "f", "tool_calls": None}]}, TOOL),
        ({"prompt": "a", "max_tokens": 3, "max_completion_tokens": 3}, Line(prompt="a", max_new_tokens=3)),
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
        ({"prompt": "a", "temperature": "hot"}, "temperature: is no number, but a text"),
        ({"prompt": "a", "temperature": True}, "temperature: is no number, but true or false"),
        ({"prompt": "a", "temperature": -1}, "temperature: -1 is no finite number from 0 up"),
        ({"prompt": "a", "top_k": 2.5}, "top_k: is no whole number, but a number"),
        ({"prompt": "a", "top_k": -2}, "top_k: -2 is too small"),
        ({"prompt": "a", "top_k": 2**40}, "top_k: 1099511627776 is too much"),
        ({"prompt": "a", "top_p": 0}, "top_p: 0 is no share above 0"),
        ({"prompt": "a", "seed": 2**64}, "seed: 18446744073709551616 does not fit 64 bits"),
        ({"prompt": "a", "ignore_eos": 1}, "ignore_eos: 1 is neither true nor false"),
        ({"prompt_ids": []}, "prompt_ids: is no list"),
        ({"prompt_ids": [1, True]}, "prompt_ids: is no list"),
        ({"prompt_ids": "1, 2"}, "prompt_ids: is no list"),
        ({"messages": []}, "messages: is no list"),
        ({"messages": ["Hello"]}, "messages: each needs a role and a content"),
        ({"messages": [{"role": "user"}]}, "messages: each needs a role and a content"),
        ({"messages": [{**USER, "content": 7}]}, "messages: content is no text, but int"),
        ({"messages": [{**USER, "audio": {}}]}, "messages: audio is not known here"),
        ({"messages": [{**USER, "name": 7}]}, "messages: name is no text"),
        ({"messages": [{**USER, "name": "\ud83d"}]}, "messages: has half a character"),
        ({"messages": [{**USER, "content": [{"type": "text", "text": "a", "cache_control": {}}]}]}, "cache_control of"),
        ({"messages": [{**USER, "tool_calls": [{}]}]}, "tool_calls needs a function with a name"),
        ({"messages": [{**USER, "tool_calls": [{"function": {"name": "f", "strict": True}}]}]}, "strict of tool_calls"),
        ({"messages": [{**USER, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, "arguments of tool"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages: only parts of text"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: 0 is no number of tokens"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens: '5' is no number of tokens"),
        ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens: True is no number of tokens"),
        ({"body": "a"}, "body: is no JSON object"),
        ({"body": {"prompt": "a"}, "temperature": 0.7}, "temperature: is not known here; beside body"),
        ({"body": {"prompt": "a"}, "prompt": "b"}, "prompt: is not known here; beside body"),
        ({"prompt": "a", "id": 1, "custom_id": 2}, "id and custom_id: a line has one name"),
        ({"prompt": [1, "a"]}, "prompt: is no list of one or more token ids"),
        ({"prompt": "a", "category": "x"}, "category: is not known here; leave it out, or put"),
        ({"prompt": "a", "max_tokens": 3, "max_new_tokens": 4}, "max_new_tokens and max_tokens: say different lengths"),
        ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty: 0 is no number from 0.01"),
        ({"prompt": "a", "presence_penalty": "1"}, "presence_penalty: '1' is no number"),
        ({"prompt": "a", "chat_template_kwargs": []}, "chat_template_kwargs: is no JSON object, but a list"),
        ({"prompt": "a", "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs: tools is set by the program"),
        ({"prompt": "a", "n": 2}, "n: cannot be had"),
        ({"prompt": "a", "n": True}, "n: cannot be had"),
        ({"prompt": "a", "stream": True}, "stream: cannot be had"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format: cannot be had"),
    ],
)
def test_what_is_wrong_with_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_line(fields)
    assert says in str(error.value)


# Fields of OpenAI and vLLM, with a value that asks for something.
OTHERS = {"min_p": 0.1, "stop_token_ids": [5], "min_tokens": 3, "guided_json": {}, "functions": [{}], "best_of": 2}
OTHERS |= {"suffix": "a", "continue_final_message": True, "logit_bias": {"5": 1}, "stop": ["a"], "tools": [{}], "n": 2}
OTHERS |= {"bad_words": ["a"], "structured_outputs": {}, "logprobs": 1, "echo": True, "documents": [], "modalities": []}
OTHERS |= {"reasoning_effort": "low", "prediction": {}, "audio": {}, "web_search_options": {}, "prompt_logprobs": 1}
OTHERS |= {"allowed_token_ids": [5], "add_special_tokens": False, "chat_template": "a", "truncate_prompt_tokens": 3}
OTHERS |= {"logits_processors": [], "vllm_xargs": {}, "typical_p": 0.5, "no_repeat_ngram_size": 2, "enable_thinking": 0}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_built_is_refused_by_name(name: str) -> None:
    for fields in ({"prompt": "a", name: OTHERS[name]}, {"body": {"prompt": "a", name: OTHERS[name]}}):
        with pytest.raises(UserError, match=f"^{name}: "):
            parse_line(fields)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"caf\xe9",
        b"[" * 100_000,
        b"1" * 10_000,
        b"nope",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"id": NaN}',
        b'{"id": [1e999]}',
    ],
    ids=lambda line: str(line[:9]),
)
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
