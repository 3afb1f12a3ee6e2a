"""Answers of the unchanged model that transformers gave beforehand: what no change that is beside it may alter."""

import json
from pathlib import Path
from typing import Any

import bases
import oracle
from case import Check, Outcome, Room
from verdict import finite_json

SHORT_IDS = [3, 4, 5]
_FILE = "known.json"


def build(directory: Path) -> None:
    """Ask for all: prompts of text, as chats, and `SHORT_IDS` as "ids"."""
    from transformers import AutoTokenizer

    model = directory / "llama"
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    prompts = {text: oracle.chat_or_text(text)(tokenizer) for text in ("hi", "x")} | {"ids": SHORT_IDS}
    found = {name: oracle.tokens(model, ids, bases.NEW_TOKENS) for name, ids in prompts.items()}
    texts = {name: tokenizer.decode(tokens, skip_special_tokens=True) for name, (tokens, _) in found.items()}
    known = {name: {"tokens": tokens, "gaps": gaps, "text": texts[name]} for name, (tokens, gaps) in found.items()}
    (directory / _FILE).write_text(json.dumps(known))


def difference(room: Room, name: str, answer: dict[str, Any], most: int = bases.NEW_TOKENS) -> str | None:
    """What is wrong with an answer to that prompt of so many tokens at most."""
    known = json.loads((room.bases / _FILE).read_text())[name]
    return oracle.difference(answer, known["tokens"][:most], known["gaps"][:most])


def says_it(room: Room, name: str) -> Check:
    """A check of `generate`: the answer to that prompt stands on standard output, as text or with `--json -`."""

    def check(outcome: Outcome) -> str | None:
        if outcome.stdout.startswith(b"{\n"):
            return difference(room, name, finite_json(outcome.stdout))
        expected = json.loads((room.bases / _FILE).read_text())[name]["text"] + "\n"
        found = outcome.stdout.decode("utf-8", "replace")
        return None if found == expected else f"{found!r} in place of {expected!r}"

    return check


def wrote_it(room: Room, name: str) -> Check:
    """A check of `batch`: the answer to that prompt is the one line that it has written."""

    def check(outcome: Outcome) -> str | None:
        lines = (room.work / "out" / "answers.jsonl").read_text().splitlines()
        if len(lines) != 1:
            return f"{len(lines)} answers to 1 line"
        answer = finite_json(lines[0].encode())
        return difference(room, name, answer) if "token_ids" in answer else f"skipped: {answer}"

    return check
