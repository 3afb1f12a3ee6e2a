"""tokenizer.json, tokenizer_config.json and the files beside them."""

from pathlib import Path
from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import odd
import oracle
from case import QUICK, Case, Room, remove
from verdict import is_finite_json

from kinds.config import most

_FIELDS = odd.words("""
    tokenizer_class bos_token eos_token unk_token pad_token additional_special_tokens chat_template
    add_bos_token add_eos_token model_max_length added_tokens_decoder auto_map clean_up_tokenization_spaces
    padding_side truncation_side extra_special_tokens legacy use_default_system_prompt add_prefix_space
""")
_CLASSES = (
    *("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "Qwen2Tokenizer"),
    *("GPT2Tokenizer", "T5Tokenizer", "TokenizersBackend", "BertTokenizer", "SomeTokenizer", "object", "AutoModel"),
)
# fmt: off
_PATTERNS = (
    "(a+)+$", "(x|xx)*y", "(?<=a*)b", "[", "(?R)", "\\p{L}+", "(.*)*\\1", "", "a{99999}", "(h|hi)+(h|hi)+(h|hi)+!",
)
# fmt: on
_REGEX = (
    lambda pattern: {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
    lambda pattern: {"type": "Split", "pattern": {"String": pattern}, "behavior": "Removed", "invert": True},
    lambda pattern: {"type": "Sequence", "pretokenizers": []},
)
_NORMALIZERS = (
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a" * 100},
    {"type": "Prepend", "prepend": "▁" * 1000},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    *({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}),
    *({"type": "Sequence", "normalizers": [{"type": "NFC"}] * 50}, {"type": "x"}, None, [], 3),
)
_PROMPTS = (
    "hi there",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxz",
    "é你😀",
    "<|im_end|>",
)
_BESIDE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "vocab.txt")


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model, prompt = room.copy("llama"), rng.choice(_PROMPTS)
    told = [f"--prompt {prompt!r}", *(change(room, model, draw) for draw in draws)]
    words = ["generate", "--model", str(model), "--prompt", prompt, "--no-chat", "--json", "-", *QUICK, *most()]
    asks = oracle.generates(model, lambda tokenizer: list(tokenizer(prompt)["input_ids"]), bases.NEW_TOKENS)
    return Case(words, names=("ROOM/model", "tokeniz", "--prompt"), check=is_finite_json, oracle=asks, told=told)


def change(room: Room, model: Path, rng: Random) -> str:
    """One change."""
    drawn, main, settings = rng.random(), model / "tokenizer.json", model / "tokenizer_config.json"
    if drawn < 0.12:
        return edit_files.spoil(room, rng.choice((main, settings)), rng)
    if drawn < 0.2:
        path = model / rng.choice(_BESIDE)
        room.write(
            path, rng.choice((edit_json.dump(odd.value(rng)), odd.text(rng), "#version: 0.2\nh i\n", '{"h": 0}'))
        )
        return f"{path.name} beside it"
    if drawn < 0.27:
        lone = rng.choice((main, settings))
        remove(lone)
        return f"without {lone.name}"
    if drawn < 0.6:
        return edit_settings(room, settings, rng)
    if drawn < 0.8:
        return edit_json.edit_file(room, main, rng)
    return edit_parts(room, main, rng)


def edit_settings(room: Room, path: Path, rng: Random) -> str:
    """tokenizer_config.json."""
    document = edit_json.load(path)
    if rng.random() < 0.6 or not isinstance(document, dict):
        return edit_json.edit_file(room, path, rng, _FIELDS)
    name = rng.choice(("bos_token", "eos_token", "unk_token", "pad_token", "tokenizer_class", "model_max_length"))
    if name == "tokenizer_class":
        document[name] = rng.choice(_CLASSES)
    else:
        text = odd.text(rng)
        special: dict[str, Any] = {"content": text, "special": True, "lstrip": odd.value(rng), "__type": "AddedToken"}
        document[name] = rng.choice((text, special, {"content": text}, odd.value(rng)))
    room.write(path, edit_json.dump(document))
    return f"{path.name}: {name} = {edit_json.short(document[name])}"


def edit_parts(room: Room, path: Path, rng: Random) -> str:
    """tokenizer.json: what runs over a text, and the tokens."""
    document = edit_json.load(path)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        return edit_files.spoil(room, path, rng)
    what = rng.choice(
        ("pre_tokenizer", "normalizer", "added_tokens", "vocab", "merges", "truncation", "post_processor")
    )
    if what == "pre_tokenizer":
        found: Any = rng.choice(_REGEX)(rng.choice(_PATTERNS))
    elif what == "normalizer":
        found = rng.choice(_NORMALIZERS)
    elif what == "added_tokens":
        token = {
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": rng.random() < 0.5,
            "special": True,
        }
        number = rng.choice((0, 5, 257, 258, 300, 2**31, 2**32, -1))
        found = [*(document.get(what) or []), {"id": number, "content": odd.text(rng), **token}]
    elif what == "vocab":
        found = {
            **(document["model"].get("vocab") or {}),
            odd.text(rng): rng.choice((0, 3, 259, 10**6, 2**32, -1, 1.5)),
        }
    elif what == "merges":
        found = rng.choice(([["h", "i"]], ["h i"], [["h"]], ["h"], ["h i t"], [[1, 2]], [["Ġ", "Ġ"]] * 3))
    elif what == "truncation":
        found = rng.choice(({"max_length": 0, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}, 3, {}))
    else:
        found = rng.choice(
            ({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}, {"type": "x"}, [])
        )
    holder = document["model"] if what in ("vocab", "merges") else document
    holder[what] = found
    room.write(path, edit_json.dump(document))
    return f"{path.name}: {what} = {edit_json.short(found if what != 'vocab' else list(found.items())[-1], 200)}"
