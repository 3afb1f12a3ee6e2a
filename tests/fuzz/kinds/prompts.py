"""Prompts, prompt files, system and negative prompts, documents and questions."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import odd
import oracle
from case import QUICK, Case, Check, Room
from verdict import is_finite_json

from kinds.config import most

# fmt: off
_LINES = (
    "one?", "", "two?", "  ", "\u2028", "\x0b", "\x1c", "é你😀?", "x" * 200, "\t?", "\r", "<|im_end|>", "\x00",
    "--- 2 of 3",
)
# fmt: on


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy(rng.choice(("llama", "qwen2")))
    common = ["--model", str(model), "--json", "-", *QUICK, *most()]
    kind = rng.choice(("--prompt", "--prompt-file", "--system", "--negative-prompt", "ask", "ask"))
    if kind == "ask":
        files = [
            room.write(room.work / name, text) for name, text in (("doc", "some text"), ("questions", "one?\ntwo?\n"))
        ]
        told = [spoil_text(room, draw.choice(files), draw) for draw in draws]
        words = ["ask", *common, "--document", "doc", "--questions", "questions"]
        names = ("--document", "--questions", "questions", "the prompt")
        asks = oracle.answers(model, lambda tokenizer: prompts_of(*files, tokenizer), bases.NEW_TOKENS)
        return Case(words, names=names, check=is_finite_json, oracle=asks, told=told)
    told, text, asks = [kind], "hi there", None
    if kind == "--prompt-file":
        path = room.write(room.work / "story.txt", text)
        told += [spoil_text(room, path, draw) for draw in draws]
        words = ["generate", *common, kind, "story.txt"]
        asks = of_text(model, lambda: path.read_text(encoding="utf-8-sig"))
    else:
        given = odd.argument(odd.text(draws[0])) if draws else text
        told.append(edit_json.short(given))
        words = ["generate", *common, *(() if kind == "--prompt" else ("--prompt", text)), kind, given]
        words += ["--guidance-scale", "1.5"] if kind == "--negative-prompt" else []
        if kind == "--prompt":
            asks = of_text(model, lambda: given)
        elif kind == "--system":
            asks = oracle.generates(model, oracle.chat_or_text(text, given), bases.NEW_TOKENS)
    names = (kind, "the prompt", "--prompt", "the negative prompt")
    return Case(words, names=names, check=is_finite_json, oracle=asks, told=told)


def of_text(model: Path, text: Callable[[], str]) -> Check:
    """What transformers says to a text."""
    return oracle.generates(model, lambda tokenizer: oracle.chat_or_text(text())(tokenizer), bases.NEW_TOKENS)


def prompts_of(document: Path, questions: Path, tokenizer: Any) -> dict[Any, list[int]]:
    """The prompt of each question."""
    text = document.read_text(encoding="utf-8-sig").rstrip()
    lines = [line.strip() for line in questions.read_text(encoding="utf-8-sig").split("\n")]
    return {line: oracle.chat_or_text(f"{text}\n\n{line}")(tokenizer) for line in lines if line}


def spoil_text(room: Room, path: Path, rng: Random) -> str:
    """One change of a file of text."""
    if rng.random() < 0.4:
        return edit_files.spoil(room, path, rng)
    if path.name == "questions":
        text = rng.choice(("\n", "\r\n", "\r", "\n\n")).join(rng.choice(_LINES) for _ in range(rng.randrange(1, 6)))
    else:
        text = odd.text(rng) + rng.choice(("", "\n", "\r\n", "hi"))
    content: bytes | str = text
    if rng.random() < 0.2:
        content = rng.choice(
            (b"caf\xe9", b"\xff\xfeh\0i\0", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"hi\0\0")
        )
    room.write(path, content)
    return f"{path.name}: {edit_json.short(content)}"
