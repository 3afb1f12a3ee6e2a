"""A model's chat template: what it knows of, and texts that it makes, within limits of time and memory."""

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.system import start
from mpi_spp.system.files import json_type

_START_SECONDS, _ANSWER_SECONDS = 60, 60  # on a machine that does much else; its own limits are narrower
_MOST_CHARACTERS = 2**20  # of a template; the longest we know have a fiftieth
_COMMON_ROLES = ("system", "user", "assistant")
_WRITTEN_AS = {"reasoning": ("reasoning_content", "thinking"), "reasoning_content": ("reasoning_content", "thinking")}


def begin_rendering() -> None:
    """Start the process that renders: it is ready by the time that a tokenizer is loaded."""
    _PROCESS.begin()


class ChatTemplate:
    """The template of a tokenizer. Raises UserError where that has none that can be used."""

    def __init__(self, tokenizer: Any, directory: Path) -> None:
        try:
            self._text = tokenizer.get_chat_template()
        except Exception as error:  # several templates and none by default, or something else than text
            raise UserError(f"{directory}: its chat template cannot be used ({error}); use --no-chat") from None
        if not isinstance(self._text, str):
            raise UserError(f"{directory}: its chat template is {json_type(self._text)}, no text; use --no-chat")
        if len(self._text) > _MOST_CHARACTERS:
            raise UserError(f"{directory}: its chat template has {len(self._text)} characters; use --no-chat")
        self._special = {name: _as_text(token) for name, token in tokenizer.special_tokens_map.items()}

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], source: str) -> str:
        """The text of a chat whose next message is the answer, as transformers' `apply_chat_template` makes it.

        `source`: the option or field that gave the variables. Raises UserError where the template refuses the messages,
        does not end, or would leave out what it does not know of.
        """
        for name in variables:
            if not re.search(rf"\b{re.escape(name)}\b", self._text):
                raise UserError(f"{source}: the model's chat template knows no {name!r}; leave it out")
        for name in sorted({name for message in messages for name in message} - {"role", "content"}):
            if not self._knows(name):
                raise UserError(f"messages: the model's chat template has no use for {name}; leave it out")
        asked = {"template": self._text, "messages": list(messages)}
        told = _PROCESS.ask(asked | {"variables": self._special | {"add_generation_prompt": True} | dict(variables)})
        if "error" in told:
            raise UserError(f"the model's chat template (--chat) refuses the messages ({told['error']})")
        for message in messages:
            if message["role"] not in _COMMON_ROLES and message.get("content", "").strip() not in told["text"]:
                raise UserError(f"messages: the model's chat template leaves out what a {message['role']!r} says")
        return told["text"]

    def _knows(self, field: str) -> bool:
        """Whether the template looks at such a field of a message: `message.name`, `message['name']`."""
        names = "|".join(_WRITTEN_AS.get(field, (field,)))
        of_message = rf"(\.({names})\b|\[\s*['\"]({names})['\"]|\.get\(\s*['\"]({names})['\"])"
        return re.search(rf"\b(message|msg|m|messages\[[^\]]*\]){of_message}", self._text) is not None


def _as_text(token: Any) -> str | list[str]:
    return [str(one) for one in token] if isinstance(token, (list, tuple)) else str(token)


class _Process:
    """The process that renders; it is started when it is needed, and ends when it has had nothing to do for a while."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready, self._owner = False, os.getpid()

    def ask(self, what: Mapping[str, Any]) -> dict[str, str]:
        """What it answers. An error says what became of it."""
        line = json.dumps(what).encode() + b"\n"
        for _ in range(2):  # it may just have left
            process = self._started()
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except OSError:
                self._end()
                continue
            told = _line_of(process, _ANSWER_SECONDS)
            if told:
                return json.loads(told)
            if told is None or process.wait(_START_SECONDS) != 0:
                break
        return {"error": self._end()}

    def begin(self) -> None:
        """Start it if it is not there."""
        if self._owner != os.getpid():  # a copy of the process that started it
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._is_ready = False
            command, pipe = start.words("mpi_spp.model.text.template_process"), subprocess.PIPE
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            try:
                self._process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=os.sep, env=environment
                )
            except OSError as error:
                raise UserError(f"--chat: no process for the chat template can be started ({error.strerror})") from None

    def _started(self) -> Any:
        self.begin()
        if not self._is_ready and not _line_of(self._process, _START_SECONDS):
            raise UserError(f"--chat: the process for the chat template cannot be used ({self._end()})")
        self._is_ready = True
        return self._process

    def _end(self) -> str:
        """Take it away, and say why it was of no use."""
        process, self._process = self._process, None
        if process is None:
            return "it has not been started"
        ended = process.poll()
        process.kill()
        process.communicate()
        if ended is None:
            return "it does not end"
        return "it takes too long" if ended == -signal.SIGPROF else f"its process ended with status {ended}"


def _line_of(process: Any, seconds: float) -> bytes | None:
    """The next line that it writes; empty when it ends, None when it takes longer."""
    return process.stdout.readline() if select.select([process.stdout], [], [], seconds)[0] else None


_PROCESS = _Process()
