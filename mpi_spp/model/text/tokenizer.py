"""A model's own tokenizer: loaded, and asked, within limits, whatever its files hold."""

import importlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.model.text.template import begin_rendering
from mpi_spp.model.text.transformers_import import import_checks_alone
from mpi_spp.system.files import MIB

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_READ_TOO = {"added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "special_tokens_map.json"}
_READ_TOO |= {"vocab.json", "vocab.txt"}
_MOST_MIB = 128  # of a file; the largest we know has 35
_MOST_GROWTH = 1000  # of a text by its normalizer; the largest we know has 3
_MOST_WORDS = 300  # characters of another program's error


def load_tokenizer(directory: Path, chats: bool = False) -> Any | None:
    """The tokenizer of a model directory; None when it has none. `chats`: its chat template may be used soon."""
    if not any((directory / name).exists() for name in _FILES):
        return None
    for name in (*_FILES, *_READ_TOO):
        _require_size(directory / name)
    _require_sentencepiece(directory)
    if chats and _has_template(directory):
        begin_rendering()
    import_checks_alone()
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    with _in_one_line(f"{directory}: its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"{directory}: its tokenizer_config.json names no tokenizer; get the model's files again")
    _require_little_growth(tokenizer, directory)
    return tokenizer


def token_ids(tokenizer: Any, text: str, positions: int, source: str, special: bool = True) -> list[int]:
    """The ids of a text, with the special tokens that the tokenizer sets around one, or without.

    Raises UserError, which begins with `source`, where there are none, or far more than the model's positions.
    """
    require_room(tokenizer, text, positions, source)
    ids = _ids(tokenizer, text, source, special)
    if not ids:
        raise UserError(f"{source}: the tokenizer makes no tokens of it; give other text")
    return ids


def require_room(tokenizer: Any, text: str, positions: int, source: str) -> None:
    """Raise UserError for a text that cannot fit the model's positions, before all of it has been looked at.

    The ids of its beginning are those of the whole but for the last few.
    """
    length = 4 * positions  # characters of a token, as a rule
    while length < len(text):
        if len(_ids(tokenizer, text[:length], source, special=False)) > 2 * positions:
            raise UserError(
                f"{source}: has {len(text)} characters, far more than the model's {positions} positions hold; give a"
                " shorter text"
            )
        length *= 4


def _ids(tokenizer: Any, text: str, source: str, special: bool) -> list[int]:
    with _in_one_line(f"{source}: the model's tokenizer cannot read it"):
        return tokenizer(text, add_special_tokens=special)["input_ids"]


def is_failure(error: BaseException) -> bool:
    """Whether tokenizers has failed: its panics are no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _require_size(path: Path) -> None:
    """Raise UserError for a file that nothing should try to read, such as a pipe or gigabytes."""
    if not path.exists():
        return
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is no file; get the model's files again")
    if found.st_size > _MOST_MIB * MIB:
        raise UserError(f"{path}: has more than {_MOST_MIB} MiB, which no tokenizer has; get the model's files again")


def _require_little_growth(tokenizer: Any, directory: Path) -> None:
    """Raise UserError where each character may become thousands, before there is a text that does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in ("normalizer", "decoder"):
        step = getattr(backend, part, None)
        if step is not None and _growth(json.loads(step.__getstate__())) > _MOST_GROWTH:
            raise UserError(f"{directory}: the {part} of tokenizer.json makes texts without measure; get it again")


def _growth(step: Any) -> int:
    """How many characters one may become, at most, by what a step and those inside it put in its place."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    own = max(len(value) for value in (step.get("content"), step.get("prepend"), "") if isinstance(value, str))
    return max(1, own) * math.prod(_growth(value) for value in step.values() if isinstance(value, (list, dict)))


def _has_template(directory: Path) -> bool:
    settings = directory / "tokenizer_config.json"
    return (directory / "chat_template.jinja").exists() or (
        settings.exists() and b'"chat_template"' in settings.read_bytes()
    )


def _require_sentencepiece(directory: Path) -> None:
    """Raise UserError where a tokenizer.model is all there is, and what reads it is missing.

    transformers takes it for a file of tiktoken then, and asks for that.
    """
    path = directory / "tokenizer.model"
    if (directory / "tokenizer.json").exists() or not path.exists():
        return
    missing = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
    with path.open("rb") as file:
        is_of_sentencepiece = file.read(1) == b"\n"  # its first field; tiktoken's files are base64
    if missing and is_of_sentencepiece:
        raise UserError(f"{path}: needs sentencepiece and protobuf; pip install 'mpi-spp[sentencepiece]'")


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Make a UserError of whatever is raised. What tokenizers shows then, panics and all, is kept back.

    Else it is shown on standard error: the answer has standard output.
    """
    with tempfile.TemporaryFile() as shown:
        before = {number: os.dup(number) for number in (1, 2) if _is_open(number)}
        for number in before:
            os.dup2(shown.fileno(), number)
        try:
            yield
        except UserError:
            raise
        except BaseException as error:  # transformers raises many kinds; all of them mean that the files are wrong
            if not is_failure(error):
                raise
            shown.truncate(0)
            raise UserError(f"{what} ({_shortened(error)})") from None
        finally:
            for number, descriptor in before.items():
                os.dup2(descriptor, number)
                os.close(descriptor)
            shown.seek(0)
            while 2 in before and (words := shown.read(MIB)):
                os.write(2, words)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _shortened(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _MOST_WORDS else words[:_MOST_WORDS] + "..."
