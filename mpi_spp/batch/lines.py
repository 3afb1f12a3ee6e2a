"""The input of a batch: lines of JSON, of which each asks for one answer. A field counts, or is refused by its name."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpi_spp.batch.messages import Message, read_message, require_characters
from mpi_spp.errors import UserError
from mpi_spp.request import DRAWS, PENALTY_RANGES, check_draw, check_penalty, check_template_variables
from mpi_spp.system.files import MIB, read_bytes

_MOST_BYTES, _MOST_BYTES_OF_A_PIPE = 1024 * MIB, 96 * MIB  # of a file; of a pipe or a device, which may never end
_PROMPTS = ("prompt", "prompt_ids", "messages")
_LENGTHS = ("max_new_tokens", "max_completion_tokens", "max_tokens")  # the last two are OpenAI's
_AROUND = ("id", "custom_id", "method", "url", "body")  # OpenAI's batch format
# Of OpenAI and vLLM, and without a meaning here: who asks, where it is answered, and what is kept of it.
_WITHOUT_MEANING = {"metadata", "model", "priority", "prompt_cache_key", "request_id", "safety_identifier"}
_WITHOUT_MEANING |= {"service_tier", "store", "user"}
# What clients spell out though it asks for nothing: these values are taken, any other is refused.
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "continue_final_message": (False,),
    "echo": (False,),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stop": ([], ""),
    "stop_token_ids": ([],),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
}


@dataclass(frozen=True)
class Line:
    """What one line asks for: exactly one of `prompt`, `prompt_ids` and `messages` is there.

    `draws`: what it says of how tokens are drawn, by the names of DRAWS; of all else the command's options count.
    """

    prompt: str | None = None
    prompt_ids: list[int] | None = None
    messages: list[Message] | None = None
    max_new_tokens: int | None = None  # None: as the command says
    penalties: Mapping[str, float] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] | None = None
    draws: Mapping[str, Any] = field(default_factory=dict)
    ignore_eos: bool | None = None


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines that are not blank, each after its number from 1 up."""
    source, advice = f"--input: {path}", "; give a file of JSON lines, and not too many"
    if os.path.isfile(path) and os.path.getsize(path) > _MOST_BYTES:
        raise UserError(f"{source} has more than {_MOST_BYTES // MIB} MiB, the most that is read{advice}")
    content = read_bytes(source, path, _MOST_BYTES if os.path.isfile(path) else _MOST_BYTES_OF_A_PIPE, advice)
    lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def read_object(line: bytes) -> dict[str, Any]:
    """The fields of a line. Raises UserError when it is no JSON object, or has a field twice."""
    try:
        fields = json.loads(
            line.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_finite, parse_float=_finite
        )
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
    if "body" in fields:
        _refuse_unknown(set(fields) - set(_AROUND), "beside body only id, custom_id, method and url are read")
        body = fields["body"]
    else:
        body = {name: value for name, value in fields.items() if name not in _AROUND}
    if "id" in fields and "custom_id" in fields:
        raise UserError("id and custom_id: a line has one name; leave one of them out")
    if not isinstance(body, dict):
        raise UserError("body: is no JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    _refuse_unknown(set(body) - _KNOWN, "leave it out, or put what is only for you into id or metadata")
    for name in _NOTHING_ASKED.keys() & body.keys():
        if not any(_is_same(body[name], value) for value in _NOTHING_ASKED[name]):
            raise UserError(f"{name}: cannot be had; leave it out")
    given = [name for name in _PROMPTS if name in body]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"give exactly one of prompt, prompt_ids and messages (found: {found})")
    (name,) = given
    if (variables := body.get("chat_template_kwargs")) is not None:
        check_template_variables("chat_template_kwargs", variables)
    return Line(
        **_READERS[name](body[name]),
        max_new_tokens=_max_new_tokens(body),
        penalties={one: check_penalty(one, body[one], one) for one in PENALTY_RANGES if one in body},
        chat_template_kwargs=variables,
        draws={one: _draw(one, body[one]) for one in DRAWS if one in body},
        ignore_eos=_flag("ignore_eos", body.get("ignore_eos")),
    )


_KNOWN = frozenset((*_PROMPTS, *_LENGTHS, *_WITHOUT_MEANING, *DRAWS, *_NOTHING_ASKED, *PENALTY_RANGES))
_KNOWN |= {"chat_template_kwargs", "ignore_eos"}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{max(names, key=names.count)}: stands there twice; leave one of them out")
    return fields


def _finite(text: str) -> float:
    """A number; Python's reader takes NaN and Infinity too, which are no JSON and could not be given back."""
    number = float(text)
    if not math.isfinite(number):
        raise UserError(f"is not JSON ({text} is no number of it)")
    return number


def _refuse_unknown(names: Iterable[str], advice: str) -> None:
    for name in sorted(names):
        raise UserError(f"{name}: is not known here; {advice}")


def _is_same(one: Any, other: Any) -> bool:
    """Whether JSON values are the same: a number is none of true and false."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _draw(name: str, value: Any) -> Any:
    """A value of one of DRAWS; vLLM spells a top-k of all tokens as -1."""
    return check_draw(name, 0 if name == "top_k" and value == -1 else value, name)


def _flag(name: str, value: Any) -> bool | None:
    if not isinstance(value, bool | None):
        raise UserError(f"{name}: {value!r} is neither true nor false")
    return value


def _max_new_tokens(body: Mapping[str, Any]) -> int | None:
    given = {name: body[name] for name in _LENGTHS if name in body}
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{name}: {value!r} is no number of tokens from 1 up")
    if len(set(given.values())) > 1:
        raise UserError(f"{' and '.join(given)}: say different lengths; leave all but one out")
    return next(iter(given.values()), None)


def _read_prompt(prompt: Any) -> dict[str, Any]:
    if isinstance(prompt, list):  # OpenAI's completions take ids under the same name
        return _read_ids(prompt, "prompt")
    if not isinstance(prompt, str):
        raise UserError(f"prompt: {type(prompt).__name__} is no text")
    if not prompt.strip():
        raise UserError("prompt: is empty")
    require_characters(prompt, "prompt")
    return {"prompt": prompt}


def _read_ids(ids: Any, name: str = "prompt_ids") -> dict[str, Any]:
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise UserError(f"{name}: is no list of one or more token ids")
    return {"prompt_ids": ids}


def _read_messages(messages: Any) -> dict[str, Any]:
    if not isinstance(messages, list) or not messages:
        raise UserError("messages: is no list of one or more messages")
    return {"messages": [read_message(one) for one in messages]}


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "prompt": _read_prompt,
    "prompt_ids": _read_ids,
    "messages": _read_messages,
}
