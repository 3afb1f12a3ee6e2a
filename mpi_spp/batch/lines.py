"""The input of a batch: lines of JSON, of which each asks for one answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.files import MIB, read_bytes

Message = dict[str, str]  # role, content

_MOST_BYTES = 4096 * MIB  # of an input: all lines are kept
_PROMPTS = ("prompt", "prompt_ids", "messages")
_LENGTHS = ("max_new_tokens", "max_completion_tokens", "max_tokens")  # the last two are OpenAI's
# What would change an answer in a way that a line cannot ask for: dropping it in silence would be a wrong answer.
_NOT_OF_A_LINE = ("temperature", "top_p", "top_k", "seed", "n", "stop", "tools", "response_format", "logit_bias")


@dataclass(frozen=True)
class Line:
    """What one line asks for: exactly one of `prompt`, `prompt_ids` and `messages` is there."""

    prompt: str | None = None
    prompt_ids: list[int] | None = None
    messages: list[Message] | None = None
    max_new_tokens: int | None = None  # None: as the command says


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines that are not blank, each after its number from 1 up."""
    content = read_bytes(f"--input: {path}", path, _MOST_BYTES, "; give a file of JSON lines")
    lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def read_object(line: bytes) -> dict[str, Any]:
    """The fields of a line. Raises UserError when it is no JSON object."""
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise UserError('is no JSON object; give one such as {"prompt": "Hello"}')
    return fields


def id_of(fields: Mapping[str, Any]) -> Any:
    """The user's own name for a line, by our key or OpenAI's; None without one."""
    return fields.get("id", fields.get("custom_id"))


def parse_line(fields: Mapping[str, Any]) -> Line:
    """What a line asks for. Raises UserError for what cannot be. OpenAI's batch format has it in `body`."""
    body = fields.get("body", fields)
    if not isinstance(body, dict):
        raise UserError("body: is no JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    if asked := [name for name in _NOT_OF_A_LINE if name in body]:
        raise UserError(f"{asked[0]}: cannot be set for one line; leave it out, options of the command hold for all")
    given = [name for name in _PROMPTS if name in body]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"give exactly one of prompt, prompt_ids and messages (found: {found})")
    (name,) = given
    return _READERS[name](body[name], _max_new_tokens(body))


def _max_new_tokens(body: Mapping[str, Any]) -> int | None:
    for name in _LENGTHS:
        value = body.get(name, 1)
        if type(value) is not int or value < 1:
            raise UserError(f"{name}: {value!r} is no number of tokens from 1 up")
    return next((body[name] for name in _LENGTHS if name in body), None)


def _read_prompt(prompt: Any, max_new_tokens: int | None) -> Line:
    if isinstance(prompt, list):  # OpenAI's completions take ids under the same name
        return _read_ids(prompt, max_new_tokens)
    return Line(prompt=_text(prompt, "prompt"), max_new_tokens=max_new_tokens)


def _read_ids(ids: Any, max_new_tokens: int | None) -> Line:
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise UserError("prompt_ids: is no list of one or more token ids")
    return Line(prompt_ids=ids, max_new_tokens=max_new_tokens)


def _read_messages(messages: Any, max_new_tokens: int | None) -> Line:
    if not isinstance(messages, list) or not messages:
        raise UserError("messages: is no list of one or more messages")
    return Line(messages=[_message(one) for one in messages], max_new_tokens=max_new_tokens)


_READERS = {"prompt": _read_prompt, "prompt_ids": _read_ids, "messages": _read_messages}


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError("messages: each needs a role and a content")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(map(_part, content))
    return {"role": message["role"], "content": _text(content, "messages")}


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise UserError("messages: only parts of text can be read")
    return part["text"]


def _text(value: Any, name: str) -> str:
    """A text that has something in it, and no halves of characters, which no tokenizer takes."""
    if not isinstance(value, str):
        raise UserError(f"{name}: {type(value).__name__} is no text")
    if not value.strip():
        raise UserError(f"{name}: is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{name}: has half a character (a lone surrogate)")
    return value
