"""Tokenizers whose files are wrong, and texts that no model could hold: one line, at once."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from reciting_model import make_tokenizer

from mpi_spp.errors import UserError
from mpi_spp.model.text.tokenizer import load_tokenizer, require_room, token_ids

BYTE_LEVEL = make_tokenizer()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tokenizer.json holds."""
    directory = tmp_path_factory.mktemp("good")
    BYTE_LEVEL.save_pretrained(directory)
    return json.loads((directory / "tokenizer.json").read_text())


def split_by(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def replace(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


@pytest.mark.parametrize(
    "part, value, says",
    [
        ("model", None, "its tokenizer cannot be loaded"),
        ("added_tokens", [{"id": 2**40, "content": "a"}], "its tokenizer cannot be loaded"),
        ("pre_tokenizer", split_by("(a"), "its tokenizer cannot be loaded"),
        ("pre_tokenizer", split_by("(a+)+$"), "it: the model's tokenizer cannot read it (Onig"),
        ("normalizer", replace("a" * 5000), "the normalizer of tokenizer.json makes texts without measure"),
        ("normalizer", {"type": "Sequence", "normalizers": [replace("a" * 50)] * 4}, "makes texts without measure"),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 5000}, "makes texts without measure"),
        ("decoder", replace("a" * 5000), "the decoder of tokenizer.json makes texts without measure"),
    ],
    ids=str,
)
def test_a_part_that_is_wrong_is_one_line(
    part: str, value: Any, says: str, good: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a panic of the library not even its own lines are shown."""
    BYTE_LEVEL.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(good | {part: value}))
    with pytest.raises(UserError) as caught:
        token_ids(load_tokenizer(tmp_path), "a" * 40 + "!", 100, "it")
    assert says in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_files_that_nothing_should_read(name: str, tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes into, gigabytes."""
    BYTE_LEVEL.save_pretrained(tmp_path)
    path = tmp_path / name
    for make in (Path.mkdir, os.mkfifo):
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(UserError, match=f"{name}: is no file"):
            load_tokenizer(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()
    with path.open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(UserError, match=f"{name}: has more than 128 MiB"):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x00")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(UserError, match="needs sentencepiece and protobuf; pip install"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("length", [4, 39, 40, 41, 60, 79, 80])
def test_a_text_near_the_limit_is_left_to_exact_counting(length: int) -> None:
    assert len(token_ids(BYTE_LEVEL, "a" * length, 40, "it")) == length


def test_a_text_far_beyond_the_limit_is_refused_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="it: has 33000000 characters, far more than the model's 1000 positions hold"):
        require_room(BYTE_LEVEL, "so it goes\n" * 3 * 10**6, 1000, "it")
    assert time.monotonic() - start < 1


def test_what_tokenizers_prints_is_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It prints the fields that it does not know, on standard output."""
    make_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"normalized"', '"odd"', 1))
    with contextlib.suppress(UserError):
        load_tokenizer(tmp_path)
    assert capfd.readouterr().out == ""
