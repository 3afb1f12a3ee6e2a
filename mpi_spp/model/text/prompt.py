"""From the user's words to token ids and back, by the model's own tokenizer, chat template and stop tokens."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi_spp.config import RunConfig, option_name
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.text.template import ChatTemplate
from mpi_spp.model.text.tokenizer import is_failure, require_room, token_ids
from mpi_spp.system.files import parse_json, read_text

_MOST_BYTES_OF_AN_ID = 64  # with what may stand around it in a file
_NOT_WHOLE = "\ufffd"  # what decoders put in place of bytes that are no character


def prompt_token_ids(config: RunConfig, tokenizer: Any | None, directory: Path, model: ModelConfig) -> list[int]:
    """The token ids of what the user gave, with the chat template or the special tokens that the model expects."""
    if config.prompt_ids is not None:
        return _read_ids(config.prompt_ids, model)
    option, text = _read_prompt(config)
    _require_text(option, text)
    if tokenizer is None:
        raise UserError(f"{directory}: has no tokenizer; give token ids with --prompt-ids")
    return text_token_ids(config, tokenizer, directory, model, option, text)


def negative_token_ids(
    config: RunConfig, tokenizer: Any | None, directory: Path, model: ModelConfig, prompt_ids: list[int]
) -> list[int]:
    """What a guided answer is steered away from: the negative prompt's ids, made as the prompt's are.

    Beside --prompt-ids no chat template is used. Without a negative prompt it is the prompt's last token, as in
    transformers.
    """
    if config.negative_prompt is None:
        return prompt_ids[-1:]
    option, text = "--negative-prompt", _checked("--negative-prompt", config.negative_prompt)
    _require_text(option, text)
    if tokenizer is None:
        raise UserError(f"{option}: {directory} has no tokenizer; leave it out")
    if config.prompt_ids is not None:
        config = replace(config, chat=False)
    return text_token_ids(config, tokenizer, directory, model, option, text)


def _require_text(option: str, text: str) -> None:
    if not text.strip():
        raise UserError(f"{option}: the prompt is empty; give some text")


def text_token_ids(
    config: RunConfig, tokenizer: Any, directory: Path, model: ModelConfig, option: str, text: str
) -> list[int]:
    """The same for a text that an option gave."""
    chats, positions = is_chat(config, tokenizer, directory), model.max_positions
    if chats:
        require_room(tokenizer, text, positions, option)
        text = _chat_text(config, tokenizer, directory, text)
    ids = token_ids(tokenizer, text, positions, option, special=not chats)
    if max(ids) >= model.vocab_size:
        raise UserError(f"{directory}: the tokenizer gives id {max(ids)}, but the model knows only {model.vocab_size}")
    return ids


class TextStream:
    """Turns token ids into text as they come: whole characters only, special tokens hidden.

    A character may take several tokens, and a tokenizer may join a token to the one before it by a space. So each token
    is decoded behind those shown last. (`DecodeStream` of tokenizers raises on some answers that are not UTF-8.)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self._context: list[int] = []  # the tokens shown last
        self._held: list[int] = []  # the tokens after them, which are not shown yet
        self._is_broken = False  # the decoder has failed, which it would do for every token from there on

    def fresh(self) -> "TextStream":
        """A stream for another answer."""
        return TextStream(self._tokenizer)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        if token_id in self._hidden or self._is_broken:
            return ""
        self._held.append(token_id)
        piece = self._piece()
        if not piece or piece.endswith(_NOT_WHOLE):
            return ""
        self._context, self._held = self._held, []
        return piece

    def rest(self) -> str:
        """What has not been given out: last characters that never became whole."""
        if self._is_broken:
            return _NOT_WHOLE
        return self._piece() if self._held else ""

    def text(self, token_ids: list[int]) -> str:
        """The whole text of an answer. A character that is not whole spoils none beside it, as some decoders would."""
        text = self._decoded(token_ids)
        if _NOT_WHOLE not in text:
            return text
        stream = self.fresh()
        return "".join([*map(stream.push, token_ids), stream.rest()])

    def _piece(self) -> str:
        """The text of the tokens that are held, behind those shown last."""
        before, now = self._decoded(self._context), self._decoded(self._context + self._held)
        return now[len(before) :] if now.startswith(before) else self._decoded(self._held)

    def _decoded(self, token_ids: list[int]) -> str:
        """What the tokenizer makes of them; where it fails, so that an answer has no text, a sign for that."""
        try:
            return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._is_broken = True
            return _NOT_WHOLE


def _read_prompt(config: RunConfig) -> tuple[str, str]:
    """The option that gave the prompt, and the prompt."""
    if config.prompt is not None:
        return "--prompt", _checked("--prompt", config.prompt, ", or use --prompt-file")
    assert config.prompt_file is not None
    source = f"--prompt-file: {config.prompt_file}"
    return source, read_text(source, config.prompt_file)


def _checked(option: str, text: str, otherwise: str = "") -> str:
    """Python keeps bytes of the command line that are not UTF-8 as lone surrogates, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{option}: the text is not UTF-8; check the terminal's encoding{otherwise}")
    return text


def _read_ids(path: str, model: ModelConfig) -> list[int]:
    source, vocab_size = f"--prompt-ids: {path}", model.vocab_size
    text = read_text(source, path)
    if len(text) > _MOST_BYTES_OF_AN_ID * (model.max_positions + 1):
        raise UserError(f"{source} has more ids than the model's {model.max_positions} positions; give a shorter list")
    ids = parse_json(source, text)
    if not isinstance(ids, list) or not ids or not _all_token_ids(ids, vocab_size):
        raise UserError(f"{source} must hold a list of one or more token ids from 0 to {vocab_size - 1}")
    return ids


def _all_token_ids(ids: Iterable[Any], vocab_size: int) -> bool:
    return all(type(token) is int and 0 <= token < vocab_size for token in ids)


def is_chat(config: RunConfig, tokenizer: Any, directory: Path) -> bool:
    """Whether a text becomes a chat. Raises UserError when that is asked for and the model has no template."""
    has_template = tokenizer.chat_template is not None
    if config.chat and not has_template:
        raise UserError(f"--chat: {directory} has no chat template; use --no-chat")
    is_chat = has_template if config.chat is None else config.chat
    for name in ("system", "chat_template_kwargs"):
        if getattr(config, name) is not None and not is_chat:
            raise UserError(f"{option_name(name)}: only a chat has it; leave it out, or use --chat with a chat model")
    return is_chat


def _chat_text(config: RunConfig, tokenizer: Any, directory: Path, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    if config.system is not None:
        messages.insert(0, {"role": "system", "content": _checked("--system", config.system)})
    variables, option = config.chat_template_kwargs or {}, "--chat-template-kwargs"
    return ChatTemplate(tokenizer, directory).render(messages, variables, option)
