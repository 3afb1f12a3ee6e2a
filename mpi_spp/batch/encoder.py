"""From a line to a request and from tokens to text, with the model's tokenizer and what all lines share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi_spp.batch.lines import Line
from mpi_spp.batch.messages import Message
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.text.generation import read_generation
from mpi_spp.model.text.prompt import TextStream, is_chat
from mpi_spp.model.text.template import ChatTemplate
from mpi_spp.model.text.tokenizer import load_tokenizer, require_room, token_ids
from mpi_spp.request import DRAWS, Draws, Request, new_seed


class Encoder:
    """Raises UserError when options do not fit the model. A model without a tokenizer takes and gives token ids."""

    def __init__(self, config: RunConfig, model: ModelConfig, directory: Path) -> None:
        self._config, self._model, self._directory = config, model, directory
        self._seed = new_seed()  # of lines that want one and bring none
        self._tokenizer = load_tokenizer(directory, chats=config.chat is not False)
        chats = self._tokenizer is not None and is_chat(config, self._tokenizer, directory)
        self._template = ChatTemplate(self._tokenizer, directory) if chats else None
        self.generation = read_generation(config, self._tokenizer, directory)
        self._stream = None if self._tokenizer is None else TextStream(self._tokenizer)

    def request(self, line: Line, stream: int) -> Request:
        """What the engine is asked. Raises UserError where the model cannot answer.

        `stream` keys its draws, unless the line brings a seed of its own: the same line then gives the same answer
        wherever it stands.
        """
        vocab_size, positions = self._model.vocab_size, self._model.max_positions
        if line.prompt_ids is not None:
            ids = line.prompt_ids
            if not 0 <= min(ids) <= max(ids) < vocab_size:
                raise UserError(f"prompt_ids: the model knows token ids from 0 to {vocab_size - 1}")
        else:
            ids = self._token_ids(line)
            if max(ids) >= vocab_size:
                raise UserError(f"the tokenizer gives id {max(ids)}, but the model knows only {vocab_size}")
        free = positions - len(ids)
        if free < 1:
            raise UserError(f"the prompt has {len(ids)} tokens, but the model has {positions} positions")
        new_tokens = min(line.max_new_tokens or self._config.max_new_tokens, free)
        penalties = replace(self.generation.penalties, **line.penalties)
        stream = 0 if "seed" in line.draws else stream
        stop_ids, draws = self._stop_ids(line.ignore_eos), self._draws(line.draws)
        return Request(ids, stop_ids, new_tokens, stream, penalties, draws=draws)

    def text(self, token_ids: list[int]) -> str | None:
        """The answer's text; None without a tokenizer."""
        return None if self._stream is None else self._stream.text(token_ids)

    def stream(self) -> TextStream | None:
        """What turns the tokens of one more answer into text as they come; None without a tokenizer."""
        return None if self._stream is None else self._stream.fresh()

    def _draws(self, given: Mapping[str, Any]) -> Draws | None:
        """What a line says of its draws, else the options; None where it says nothing."""
        if not given:
            return None
        draws = {name: getattr(self._config, name) for name in DRAWS} | dict(given)
        if draws["temperature"] and draws["seed"] is None:
            draws["seed"] = self._seed
        return Draws(**draws)

    def _stop_ids(self, ignore_eos: bool | None) -> frozenset[int]:
        """Where an answer ends by itself."""
        if ignore_eos is False and self._config.ignore_eos:
            raise UserError("ignore_eos: false cannot be had for one line; leave --ignore-eos out")
        return frozenset() if ignore_eos else self.generation.stop_ids

    def _token_ids(self, line: Line) -> list[int]:
        if self._tokenizer is None:
            raise UserError(f"{self._directory} has no tokenizer; give prompt_ids")
        positions, name = self._model.max_positions, "prompt" if line.messages is None else "messages"
        if self._template is None:
            for found, what in ((line.messages, "messages"), (line.chat_template_kwargs, "chat_template_kwargs")):
                if found is not None:
                    raise UserError(f"{what}: need a model with a chat template, and no --no-chat")
            return token_ids(self._tokenizer, str(line.prompt), positions, name)
        messages = line.messages or [{"role": "user", "content": str(line.prompt)}]
        for message in messages:
            require_room(self._tokenizer, message.get("content", ""), positions, name)
        text = self._chat_text(self._template, messages, line.chat_template_kwargs)
        return token_ids(self._tokenizer, text, positions, name, special=False)

    def _chat_text(
        self, template: ChatTemplate, messages: Sequence[Message], variables: Mapping[str, Any] | None
    ) -> str:
        """By the chat template; `--system` stands first unless the line brings its own."""
        if self._config.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._config.system}, *messages]
        of_all = self._config.chat_template_kwargs or {}
        return template.render(messages, of_all | dict(variables or {}), "chat_template_kwargs")
