"""What clients may ask, and what they are told: OpenAI's chat completions and completions, as plain values.

A field counts, or the request is refused with its name; the fields of a line of a batch are known here too.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpi_spp.batch.encoder import Encoder
from mpi_spp.batch.lines import parse_line, read_object
from mpi_spp.errors import UserError
from mpi_spp.request import Request

_OWN = ("model", "n", "stream", "stream_options")  # fields that are read here, all others by `parse_line`
_MOST_CHOICES = 128


class Refused(Exception):
    """An error as OpenAI tells it: an HTTP status, a line, and the field that is to blame, if one is."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def told(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """What a client wants: `requests`, a choice each. `is_chat`: by /v1/chat/completions."""

    requests: list[Request]
    is_chat: bool
    streams: bool
    includes_usage: bool
    model: str
    id: str
    created: int

    @property
    def prompt_tokens(self) -> int:
        """A prompt with several choices counts once."""
        return sum({id(one.prompt_ids): len(one.prompt_ids) for one in self.requests}.values())


class Reader:
    """From bodies to requests, with the model's tokenizer. Not for several threads at once."""

    def __init__(self, chat: Encoder, text: Encoder, model: str) -> None:
        """`chat` makes a chat of what it gets where the model has a template, `text` takes it as it is."""
        self._chat, self._text, self._model = chat, text, model
        self._count = 0

    def chat(self, body: bytes) -> Asked:
        """Of /v1/chat/completions. Raises Refused."""
        fields = self._fields(body)
        if "messages" not in fields:
            raise Refused(400, "messages: is missing", "messages")
        return self._asked(fields, [fields], self._chat, True)

    def completion(self, body: bytes) -> Asked:
        """Of /v1/completions; `prompt` may be a list of texts, or of lists of token ids. Raises Refused."""
        fields = self._fields(body)
        prompt = fields.get("prompt")
        if prompt is None:
            raise Refused(400, "prompt: is missing", "prompt")
        if "messages" in fields:
            raise Refused(400, "messages: belongs to /v1/chat/completions", "messages")
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        prompts = prompt if several else [prompt]
        return self._asked(fields, [{**fields, "prompt": one} for one in prompts], self._text, False)

    def token_ids(self, body: bytes) -> list[int]:
        """Of /tokenize, with the chat template round `messages`. Raises Refused."""
        fields = self._fields(body)
        encoder = self._chat if "messages" in fields else self._text
        return self._request(fields, encoder).prompt_ids

    def text(self, body: bytes) -> str | None:
        """Of /detokenize. Raises Refused."""
        ids = self._fields(body).get("tokens")
        return self._text.text(self._request({"prompt_ids": ids}, self._text).prompt_ids)

    def _fields(self, body: bytes) -> dict[str, Any]:
        try:
            fields = read_object(body)
        except UserError as error:
            raise Refused(400, f"the body {error}") from None
        model = fields.get("model", self._model)
        if model != self._model:
            raise Refused(404, f"model: {model!r} is not here; give {self._model!r}", "model", "model_not_found")
        return fields

    def _asked(
        self, fields: Mapping[str, Any], of_prompts: list[dict[str, Any]], encoder: Encoder, chat: bool
    ) -> Asked:
        choices = _whole("n", fields.get("n"), 1, _MOST_CHOICES)
        options = fields.get("stream_options")
        streams, usage = _flag("stream", fields.get("stream")), False
        if options is not None:
            if not isinstance(options, dict) or not streams:
                raise Refused(400, "stream_options: is an object, for answers that stream", "stream_options")
            usage = _flag("stream_options.include_usage", options.get("include_usage"))
        requests = []
        for of_prompt in of_prompts:
            one = self._request({name: value for name, value in of_prompt.items() if name not in _OWN}, encoder)
            first = one.stream
            requests += [replace(one, stream=first + number) for number in range(choices)]
        kind = "chatcmpl" if chat else "cmpl"
        return Asked(requests, chat, streams, usage, self._model, f"{kind}-{uuid.uuid4().hex}", int(time.time()))

    def _request(self, fields: Mapping[str, Any], encoder: Encoder) -> Request:
        self._count += _MOST_CHOICES  # no two requests draw alike unless they bring the same seed
        try:
            return encoder.request(parse_line(fields), stream=self._count)
        except UserError as error:
            raise refusal(error) from None


def refusal(error: UserError) -> Refused:
    """A line of ours, whose field stands before its first colon."""
    name, colon, _ = str(error).partition(":")
    return Refused(400, str(error), name if colon and name.replace("_", "").isalnum() else None)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if value is None:
        return least
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name}: {value!r} is no number from {least} to {most}", name)
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | None):
        raise Refused(400, f"{name}: {value!r} is neither true nor false", name.partition(".")[0])
    return bool(value)


def usage(asked: Asked, completion_tokens: int) -> dict[str, Any]:
    """How many tokens were read and made."""
    prompt = asked.prompt_tokens
    counts = {"prompt_tokens": prompt, "completion_tokens": completion_tokens}
    return counts | {"total_tokens": prompt + completion_tokens, "prompt_tokens_details": {"cached_tokens": 0}}


def answer(asked: Asked, texts: list[str], reasons: list[str], completion_tokens: int) -> dict[str, Any]:
    """The whole answer to a request that does not stream."""
    choices = []
    for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        said = {"message": {"role": "assistant", "content": text}} if asked.is_chat else {"text": text}
        choices.append({"index": number, **said, "logprobs": None, "finish_reason": reason})
    kind = "chat.completion" if asked.is_chat else "text_completion"
    return _head(asked, kind) | {"choices": choices, "usage": usage(asked, completion_tokens)}


def piece(asked: Asked, number: int, text: str | None, reason: str | None = None, is_first: bool = False) -> str:
    """An event of a choice that streams: some text, or why it ends."""
    if asked.is_chat:
        delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
        said: dict[str, Any] = {"delta": delta if text is None else delta | {"content": text}}
    else:
        said = {"text": text or ""}
    kind = "chat.completion.chunk" if asked.is_chat else "text_completion"
    choice = {"index": number, **said, "logprobs": None, "finish_reason": reason}
    return event(_head(asked, kind) | {"choices": [choice]} | ({"usage": None} if asked.includes_usage else {}))


def last_piece(asked: Asked, completion_tokens: int) -> str:
    """The event that tells of usage, behind all others."""
    kind = "chat.completion.chunk" if asked.is_chat else "text_completion"
    return event(_head(asked, kind) | {"choices": [], "usage": usage(asked, completion_tokens)})


def event(value: Mapping[str, Any]) -> str:
    """As server-sent events have it."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}
