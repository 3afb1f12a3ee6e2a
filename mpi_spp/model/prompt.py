"""From the user's words to token ids and back, by the model's own tokenizer, chat template and stop tokens."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi_spp import files
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.transformers_import import import_checks_alone

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_NOT_WHOLE = "\ufffd"  # what decoders put in place of bytes that are no character


def load_tokenizer(directory: Path) -> Any | None:
    """The tokenizer of a model directory; None when it has none."""
    if not any((directory / name).exists() for name in _TOKENIZER_FILES):
        return None
    import_checks_alone()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; all of them mean that the files are wrong
        raise UserError(f"{directory}: its tokenizer cannot be loaded ({error})") from None
    return tokenizer


def prompt_token_ids(config: RunConfig, tokenizer: Any | None, directory: Path, vocab_size: int) -> list[int]:
    """The token ids of what the user gave, with the chat template or the special tokens that the model expects."""
    if config.prompt_ids is not None:
        return _read_ids(config.prompt_ids, vocab_size)
    option, text = _read_prompt(config)
    _require_text(option, text)
    if tokenizer is None:
        raise UserError(f"{directory}: has no tokenizer; give token ids with --prompt-ids")
    return text_token_ids(config, tokenizer, directory, vocab_size, option, text)


def negative_token_ids(
    config: RunConfig, tokenizer: Any | None, directory: Path, vocab_size: int, prompt_ids: list[int]
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
    return text_token_ids(config, tokenizer, directory, vocab_size, option, text)


def _require_text(option: str, text: str) -> None:
    if not text.strip():
        raise UserError(f"{option}: the prompt is empty; give some text")


def text_token_ids(
    config: RunConfig, tokenizer: Any, directory: Path, vocab_size: int, option: str, text: str
) -> list[int]:
    """The same for a text that an option gave."""
    ids = _chat_ids(config, tokenizer, text) if is_chat(config, tokenizer, directory) else tokenizer(text)["input_ids"]
    if not ids:
        raise UserError(f"{option}: the tokenizer makes no tokens of it; give other text")
    if max(ids) >= vocab_size:
        raise UserError(f"{directory}: the tokenizer gives id {max(ids)}, but the model knows only {vocab_size}")
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
        self._shown = ""

    def fresh(self) -> "TextStream":
        """A stream for another answer."""
        return TextStream(self._tokenizer)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        if token_id in self._hidden:
            return ""
        self._held.append(token_id)
        before, now = self.text(self._context), self.text(self._context + self._held)
        if now.endswith(_NOT_WHOLE) or len(now) <= len(before):
            return ""
        self._context, self._held = self._held, []
        piece = now[len(before) :]
        self._shown += piece
        return piece

    def rest(self, token_ids: list[int]) -> str:
        """What of the whole text has not been given out: last characters that never became whole."""
        return self.text(token_ids)[len(self._shown) :]

    def text(self, token_ids: list[int]) -> str:
        """The whole text of the answer."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def read_text(option: str, path: str) -> str:
    """The UTF-8 text of the file that an option names."""
    return files.read_text(f"{option}: {path}", path)


def _read_prompt(config: RunConfig) -> tuple[str, str]:
    """The option that gave the prompt, and the prompt."""
    if config.prompt is not None:
        return "--prompt", _checked("--prompt", config.prompt, ", or use --prompt-file")
    assert config.prompt_file is not None
    return f"--prompt-file {config.prompt_file}", read_text("--prompt-file", config.prompt_file)


def _checked(option: str, text: str, otherwise: str = "") -> str:
    """Python keeps bytes of the command line that are not UTF-8 as lone surrogates, which no tokenizer takes."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{option}: the text is not UTF-8; check the terminal's encoding{otherwise}")
    return text


def _read_ids(path: str, vocab_size: int) -> list[int]:
    ids = files.read_json(f"--prompt-ids: {path}", path, files.MOST_TEXT_BYTES)
    if not isinstance(ids, list) or not ids or not _all_token_ids(ids, vocab_size):
        raise UserError(f"--prompt-ids: {path} must hold a list of one or more token ids from 0 to {vocab_size - 1}")
    return ids


def _all_token_ids(ids: Iterable[Any], vocab_size: int) -> bool:
    return all(type(token) is int and 0 <= token < vocab_size for token in ids)


def is_chat(config: RunConfig, tokenizer: Any, directory: Path) -> bool:
    """Whether a text becomes a chat. Raises UserError when that is asked for and the model has no template."""
    has_template = tokenizer.chat_template is not None
    if config.chat and not has_template:
        raise UserError(f"--chat: {directory} has no chat template; use --no-chat")
    is_chat = has_template if config.chat is None else config.chat
    if config.system is not None and not is_chat:
        raise UserError("--system: only a chat has a system message; leave it out, or use --chat with a chat model")
    return is_chat


def _chat_ids(config: RunConfig, tokenizer: Any, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    if config.system is not None:
        messages.insert(0, {"role": "system", "content": config.system})
    return chat_token_ids(tokenizer, messages)


def chat_token_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The token ids of a chat whose next message is the answer. Raises UserError where the template refuses it."""
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    except Exception as error:  # a template may refuse a system message, in its own words
        raise UserError(f"the model's chat template (--chat) refuses the messages ({error})") from None
