"""From the user's words to token ids, and where an answer ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from reciting_model import END, START, make_tokenizer

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.text.prompt import negative_token_ids, prompt_token_ids
from mpi_spp.model.text.tokenizer import load_tokenizer

VOCAB_SIZE = 258  # 256 bytes and two special tokens
POSITIONS = 200
MODEL = cast(ModelConfig, SimpleNamespace(vocab_size=VOCAB_SIZE, max_positions=POSITIONS))
BYTE_LEVEL = make_tokenizer()  # as Llama 3, SmolLM2 and Qwen


def ids_of(tokenizer: Any = BYTE_LEVEL, directory: Path = Path("m"), **options: Any) -> list[int]:
    return prompt_token_ids(RunConfig(model="m", **options), tokenizer, directory, MODEL)


def test_a_chat_model_gets_its_template() -> None:
    expected = f"{START}user\nhi{END}\n{START}assistant\n"
    assert BYTE_LEVEL.decode(ids_of(prompt="hi")) == expected
    assert ids_of(prompt="hi", chat=True) == ids_of(prompt="hi")


def negative_ids_of(tokenizer: Any = BYTE_LEVEL, **options: Any) -> list[int]:
    config = RunConfig(model="m", guidance_scale=2.0, **options)
    return negative_token_ids(config, tokenizer, Path("m"), MODEL, [5, 6, 7])


def test_a_negative_prompt_is_made_like_the_prompt() -> None:
    assert negative_ids_of(prompt="hi", negative_prompt="lo") == ids_of(prompt="lo")
    assert negative_ids_of(prompt="hi", negative_prompt="lo", chat=False) == ids_of(prompt="lo", chat=False)
    assert negative_ids_of(prompt_ids="file", negative_prompt="lo") == ids_of(prompt="lo", chat=False)


def test_without_a_negative_prompt_it_is_the_last_token() -> None:
    assert negative_ids_of(prompt="hi") == negative_ids_of(None, prompt_ids="file") == [7]


@pytest.mark.parametrize(
    "tokenizer, text, says",
    [
        (BYTE_LEVEL, " ", "--negative-prompt: the prompt is empty"),
        (BYTE_LEVEL, "caf\udce9", "--negative-prompt: the text is not UTF-8"),
        (None, "lo", "--negative-prompt: m has no tokenizer"),
    ],
)
def test_a_bad_negative_prompt(tokenizer: Any, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        negative_ids_of(tokenizer, prompt_ids="file", negative_prompt=text)


def test_the_system_message_comes_first() -> None:
    expected = f"{START}system\nBe brief.{END}\n{START}user\nhi{END}\n{START}assistant\n"
    assert BYTE_LEVEL.decode(ids_of(prompt="hi", system="Be brief.")) == expected


def test_without_chat_the_text_is_the_prompt() -> None:
    assert ids_of(prompt="hé", chat=False) == BYTE_LEVEL("hé")["input_ids"]
    assert ids_of(make_tokenizer(chat_template=None), prompt="hé") == BYTE_LEVEL("hé")["input_ids"]


def test_without_chat_the_special_tokens_are_the_tokenizers() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(chat_template=None)
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[(START, start)]
    )
    assert ids_of(tokenizer, prompt="h") == [start, *BYTE_LEVEL("h")["input_ids"]]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_prompt_file_is_utf_8_with_or_without_a_mark(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "prompt.txt").write_bytes(mark + "hé\n".encode())
    assert ids_of(prompt_file=str(tmp_path / "prompt.txt")) == ids_of(prompt="hé\n")


def test_prompt_ids_are_used_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(f"[0, 5, {VOCAB_SIZE - 1}]")
    assert ids_of(prompt_ids=str(path)) == [0, 5, VOCAB_SIZE - 1]
    assert ids_of(None, prompt_ids=str(path)) == [0, 5, VOCAB_SIZE - 1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[",
        "[]",
        "{}",
        "5",
        "null",
        '"5"',
        "[1.0]",
        "[true]",
        '["1"]',
        "[-1]",
        f"[{VOCAB_SIZE}]",
        "[[1]]",
        "[" * 99999,
    ],
    ids=lambda content: content[:20],
)
def test_bad_prompt_ids_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ids.json").write_text(content)
    with pytest.raises(UserError, match=r"--prompt-ids: .*ids\.json"):
        ids_of(prompt_ids=str(tmp_path / "ids.json"))


@pytest.mark.parametrize(
    "options, named",
    [
        ({"prompt": ""}, "--prompt: the prompt is empty"),
        ({"prompt": " \n"}, "--prompt: the prompt is empty"),
        (
            {"prompt": "caf\udce9"},
            "--prompt: the text is not UTF-8",
        ),  # how Python keeps the byte E9 of the command line
        ({"prompt": "hi", "system": "s", "chat": False}, "--system"),
        ({"prompt_file": "no/such"}, "--prompt-file: no/such cannot be read"),
        ({"prompt_file": "/"}, "--prompt-file: / cannot be read"),
        ({"prompt_ids": "no/such"}, "--prompt-ids: no/such cannot be read"),
    ],
)
def test_bad_prompts_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ids_of(**options)


@pytest.mark.parametrize(
    "content, named",
    [(b"", "the prompt is empty"), (b"  \n", "the prompt is empty"), (b"caf\xe9", "not UTF-8 .byte 3")],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "prompt.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"--prompt-file.*{named}"):
        ids_of(prompt_file=str(tmp_path / "prompt.txt"))


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(UserError, match="--chat"):
        ids_of(make_tokenizer(chat_template=None), prompt="hi", chat=True)
    with pytest.raises(UserError, match="--system"):
        ids_of(make_tokenizer(chat_template=None), prompt="hi", system="s")


def test_a_template_that_refuses_is_quoted() -> None:
    tokenizer = make_tokenizer("{{ raise_exception('no system message here') }}")
    with pytest.raises(UserError, match="no system message here"):
        ids_of(tokenizer, prompt="hi", system="s")


def test_a_tokenizer_of_another_model_is_noticed() -> None:
    small = cast(ModelConfig, SimpleNamespace(vocab_size=10, max_positions=POSITIONS))
    with pytest.raises(UserError, match="the model knows only 10"):
        prompt_token_ids(RunConfig(model="m", prompt="hi"), BYTE_LEVEL, Path("m"), small)


# The files


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None
    with pytest.raises(UserError, match="no tokenizer; give token ids with --prompt-ids"):
        ids_of(None, tmp_path, prompt="hi")


def test_a_tokenizer_is_loaded_with_its_template(tmp_path: Path) -> None:
    BYTE_LEVEL.save_pretrained(tmp_path)
    assert ids_of(load_tokenizer(tmp_path), prompt="hé") == ids_of(prompt="hé")


def test_a_broken_tokenizer_is_one_line(tmp_path: Path) -> None:
    BYTE_LEVEL.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
