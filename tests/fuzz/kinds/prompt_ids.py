"""The list of --prompt-ids."""

from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import odd
import oracle
from case import QUICK, Case, Room
from verdict import is_finite_json

from kinds.config import most


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    path = room.write(room.work / "ids.json", edit_json.dump(bases.PROMPT_IDS))
    told = [change(room, path, draw) for draw in draws]
    words = ["generate", "--model", str(model), "--prompt-ids", "ids.json", "--json", "-", *QUICK, *most()]
    asks = oracle.generates(model, lambda tokenizer: edit_json.load(path), bases.NEW_TOKENS)
    return Case(words, names=("--prompt-ids", "the prompt"), check=is_finite_json, oracle=asks, told=told)


def change(room: Room, path: Any, rng: Random) -> str:
    """One change."""
    drawn = rng.random()
    if drawn < 0.25:
        return edit_files.spoil(room, path, rng)
    if drawn < 0.5:
        return edit_json.edit_file(room, path, rng)
    tokens: list[Any] = [
        rng.randrange(bases.VOCABULARY) for _ in range(rng.choice((1, 2, 15, 16, 17, 59, 60, 61, 64, 65)))
    ]
    what = rng.choice(("valid", "valid", "one odd", "long", "spaces", "nested"))
    if what == "one odd":
        tokens[rng.randrange(len(tokens))] = rng.choice((odd.value(rng), 1.0, True, "3", -1, bases.VOCABULARY))
    text = edit_json.dump([tokens] if what == "nested" else tokens)
    if what == "long":
        text = f"[{', '.join([text[1:-1]] * 20_000)}]"
    room.write(path, f"\ufeff \n{text}\r\n" if what == "spaces" else text)
    return f"{path.name}: {what}, {edit_json.short(text)}"
