"""From a line to a request and from tokens to text, with the model's tokenizer and what all lines share."""

from pathlib import Path
from typing import Any

from mpi_spp.batch.lines import Line, Message
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.generation import read_generation
from mpi_spp.model.prompt import TextStream, chat_token_ids, is_chat, load_tokenizer
from mpi_spp.request import Request


class Encoder:
    """Raises UserError when options do not fit the model. A model without a tokenizer takes and gives token ids."""

    def __init__(self, config: RunConfig, model: ModelConfig, directory: Path) -> None:
        self._config, self._model, self._directory = config, model, directory
        self._tokenizer = load_tokenizer(directory)
        self._is_chat = self._tokenizer is not None and is_chat(config, self._tokenizer, directory)
        self.generation = read_generation(config, self._tokenizer, directory)
        self._stream = None if self._tokenizer is None else TextStream(self._tokenizer)

    def request(self, line: Line, stream: int) -> Request:
        """What the engine is asked; `stream` keys its draws. Raises UserError where the model cannot answer."""
        ids = line.prompt_ids or self._token_ids(line)
        vocab_size, positions = self._model.vocab_size, self._model.max_positions
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise UserError(f"prompt_ids: the model knows token ids from 0 to {vocab_size - 1}")
        free = positions - len(ids)
        if free < 1:
            raise UserError(f"the prompt has {len(ids)} tokens, but the model has {positions} positions")
        new_tokens = min(line.max_new_tokens or self._config.max_new_tokens, free)
        return Request(ids, self.generation.stop_ids, new_tokens, stream, self.generation.penalties)

    def text(self, token_ids: list[int]) -> str | None:
        """The answer's text; None without a tokenizer."""
        return None if self._stream is None else self._stream.text(token_ids)

    def _token_ids(self, line: Line) -> list[int]:
        if self._tokenizer is None:
            raise UserError(f"{self._directory} has no tokenizer; give prompt_ids")
        if line.messages is not None:
            ids = self._chat_ids(self._tokenizer, line.messages)
        elif self._is_chat:
            ids = self._chat_ids(self._tokenizer, [{"role": "user", "content": str(line.prompt)}])
        else:
            ids = self._tokenizer(line.prompt)["input_ids"]
        if not ids:
            raise UserError("prompt: the tokenizer makes no tokens of it")
        return ids

    def _chat_ids(self, tokenizer: Any, messages: list[Message]) -> list[int]:
        """By the chat template; `--system` stands first unless the line brings its own."""
        if not self._is_chat:
            raise UserError("messages: need a model with a chat template, and no --no-chat")
        if self._config.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._config.system}, *messages]
        return chat_token_ids(tokenizer, messages)
