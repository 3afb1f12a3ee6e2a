"""From the user's words to token ids and back: the tokenizer, chat template and stop tokens of the model's own files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def load_tokenizer(directory: Path) -> Any | None:
    """The tokenizer of a model directory; None when it has none."""
    if not any((directory / name).exists() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; all of them mean that the files are wrong
        raise UserError(f"{directory}: its tokenizer cannot be loaded ({error})") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"{directory}: its tokenizer has no fast form (tokenizer.json), which streaming text needs")
    return tokenizer


def prompt_token_ids(config: RunConfig, tokenizer: Any | None, directory: Path, vocab_size: int) -> list[int]:
    """The token ids of what the user gave, with the chat template or the special tokens that the model expects."""
    if config.prompt_ids is not None:
        return _read_ids(config.prompt_ids, vocab_size)
    option, text = _read_text(config)
    if not text.strip():
        raise UserError(f"{option}: the prompt is empty; give some text")
    if tokenizer is None:
        raise UserError(f"{directory}: has no tokenizer; give token ids with --prompt-ids")
    ids = _chat_ids(config, tokenizer, text) if _is_chat(config, tokenizer, directory) else tokenizer(text)["input_ids"]
    if not ids:
        raise UserError(f"{option}: the tokenizer makes no tokens of it; give other text")
    if max(ids) >= vocab_size:
        raise UserError(f"{directory}: the tokenizer gives id {max(ids)}, but the model knows only {vocab_size}")
    return ids


def stop_token_ids(directory: Path, tokenizer: Any | None) -> frozenset[int]:
    """The ids that end an answer: the generation configuration's, as in transformers, else the model's or tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.exists():
            try:
                ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            except (OSError, ValueError, AttributeError) as error:
                raise UserError(f"{path}: cannot be read as JSON ({error})") from None
            if ids is not None:
                return frozenset(ids if isinstance(ids, list) else [ids])
    of_tokenizer = getattr(tokenizer, "eos_token_id", None)
    return frozenset() if of_tokenizer is None else frozenset([of_tokenizer])


class TextStream:
    """Turns token ids into text as they come: whole characters only, special tokens hidden."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._shown = ""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        piece = self._decoder.step(self._tokenizer.backend_tokenizer, token_id) or ""
        self._shown += piece
        return piece

    def rest(self, token_ids: list[int]) -> str:
        """What of the whole text has not been given out: a last character that never became whole."""
        text = self.text(token_ids)
        return text[len(self._shown) :] if text.startswith(self._shown) else ""

    def text(self, token_ids: list[int]) -> str:
        """The whole text of the answer."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _read_text(config: RunConfig) -> tuple[str, str]:
    """The option that gave the prompt, and the prompt."""
    if config.prompt is not None:
        return "--prompt", config.prompt
    assert config.prompt_file is not None
    try:
        return f"--prompt-file {config.prompt_file}", Path(config.prompt_file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt-file: {config.prompt_file} is not UTF-8 (byte {error.start}); convert it") from None
    except OSError as error:
        raise UserError(f"--prompt-file: {config.prompt_file} cannot be read ({error.strerror})") from None


def _read_ids(path: str, vocab_size: int) -> list[int]:
    try:
        ids = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--prompt-ids: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--prompt-ids: {path} is not JSON ({error})") from None
    if not isinstance(ids, list) or not ids or not _all_token_ids(ids, vocab_size):
        raise UserError(f"--prompt-ids: {path} must hold a list of one or more token ids from 0 to {vocab_size - 1}")
    return ids


def _all_token_ids(ids: Iterable[Any], vocab_size: int) -> bool:
    return all(type(token) is int and 0 <= token < vocab_size for token in ids)


def _is_chat(config: RunConfig, tokenizer: Any, directory: Path) -> bool:
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
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    except Exception as error:  # a template may refuse a system message, in its own words
        raise UserError(f"--chat: the model's chat template refuses the messages ({error})") from None
