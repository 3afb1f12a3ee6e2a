"""The messages of a chat, as OpenAI's format has them and as a model's chat template wants them."""

import json
from typing import Any

from mpi_spp.errors import UserError

Message = dict[str, Any]  # role and content, and what else templates know: see _FIELDS

# What messages may have. A template that does not know of one is noticed later: nothing is dropped in silence.
_FIELDS = {"role", "content", "name", "reasoning", "reasoning_content", "tool_call_id", "tool_calls"}


def read_message(message: Any) -> Message:
    """A message without the fields that are null. Raises UserError for what no template would be given."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError("messages: each needs a role and a content")
    message = {name: value for name, value in message.items() if value is not None}
    if unknown := sorted(message.keys() - _FIELDS):
        raise UserError(f"messages: {unknown[0]} is not known here; leave it out")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"])
    if isinstance(message.get("content"), list):
        message["content"] = "".join(map(_part, message["content"]))
    if "content" not in message and "tool_calls" not in message:
        raise UserError("messages: each needs a role and a content")
    for name, value in message.items():
        if name != "tool_calls" and not isinstance(value, str):
            raise UserError(f"messages: {name} is no text, but {type(value).__name__}")
    require_characters(json.dumps(message, ensure_ascii=False), "messages")
    return message


def require_characters(text: str, name: str) -> None:
    """Raise UserError where a text has half a character, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{name}: has half a character (a lone surrogate)")


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise UserError("messages: only parts of text can be read")
    if unknown := sorted(part.keys() - {"type", "text"}):
        raise UserError(f"messages: {unknown[0]} of a part is not known here; leave it out")
    return part["text"]


def _tool_calls(calls: Any) -> list[dict[str, Any]]:
    """Calls whose arguments are an object: OpenAI has them as text, templates want them so (and vLLM gives them so)."""
    if not isinstance(calls, list):
        raise UserError("messages: tool_calls is no list")
    return [_tool_call(call) for call in calls]


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError("messages: each of tool_calls needs a function with a name")
    if unknown := sorted((call.keys() - {"id", "type", "function"}) | (function.keys() - {"name", "arguments"})):
        raise UserError(f"messages: {unknown[0]} of tool_calls is not known here; leave it out")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise UserError("messages: arguments of tool_calls are no JSON object")
    return {**call, "function": {**function, "arguments": arguments}}
