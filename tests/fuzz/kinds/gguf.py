"""GGUF files: keys, types, counts, tokens and tensors, converted by `model convert`."""

import json
from pathlib import Path
from random import Random
from typing import Any

import edit_files
import edit_json
import gguf_file
import odd
import tiny_gguf
from case import Case, Check, Outcome, Room
from gguf_file import FORMATS, Entry, GgufFile

_KEYS = (
    *(
        "llama.rope.scaling.type",
        "llama.rope.scaling.factor",
        "llama.attention.sliding_window",
        "llama.attention.key_length",
    ),
    *(
        "llama.expert_count",
        "llama.expert_used_count",
        "general.alignment",
        "tokenizer.ggml.add_bos_token",
        "llama.vocab_size",
    ),
    *(
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.unknown_token_id",
        "split.count",
        "general.quantization_version",
    ),
    *(
        "tokenizer.ggml.pre",
        "tokenizer.ggml.scores",
        "tokenizer.chat_templates",
        "llama.attention.scale",
        "general.file_type",
    ),
)
# What a converted model must have of what the file said.
_KEPT = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "context_length": "max_position_embeddings",
}


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    path = room.work / "model.gguf"
    file = gguf_file.read((room.bases / "gguf" / "model.gguf").read_bytes())
    spoils = [draw for draw in draws if draw.random() < 0.15]
    told = [change(file, draw) for draw in draws if draw not in spoils]
    room.write(path, gguf_file.write(file))
    told += [edit_files.spoil(room, path, draw) for draw in spoils]
    words = ["model", "convert", "model.gguf", "out/converted", "--dtype", "float32"]
    is_known = not spoils and file.num_entries is None and file.num_tensors is None and file.version == 3
    is_known = is_known and len({entry.key for entry in file.entries}) == len(file.entries)
    check = is_as_said(file, room.work / "out" / "converted") if is_known else None
    return Case(words, names=("model.gguf",), check=check, told=told)


def change(file: GgufFile, rng: Random) -> str:
    """One change."""
    if not file.entries or not file.tensors:
        return "nothing left"
    return rng.choice(
        (change_value, change_value, change_value, change_tokens, change_tensor, change_tensor, change_frame)
    )(file, rng)


def change_value(file: GgufFile, rng: Random) -> str:
    """A key of the metadata."""
    entry = rng.choice([one for one in file.entries if len(str(one.value)) < 200] or file.entries)
    what = rng.choice(("number", "number", "near", "kind", "drop", "twice", "rename", "add", "array", "text"))
    if what == "add":
        entry = Entry(rng.choice(_KEYS), rng.choice((*FORMATS, gguf_file.STRING)), odd.number(rng))
        file.entries.append(entry)
    elif what == "drop":
        file.entries.remove(entry)
    elif what == "twice":
        file.entries.append(Entry(entry.key, entry.kind, entry.value))
    elif what == "rename":
        entry.key = rng.choice((entry.key.upper(), entry.key.replace("llama", "qwen2"), odd.text(rng)))
    elif what == "kind":
        entry.kind = rng.choice((*FORMATS, gguf_file.STRING, gguf_file.ARRAY, 13, 255, 2**31))
    elif what == "array":
        entry.value = [entry.value] * rng.choice((0, 1, 2, 50))
    elif what == "near" and isinstance(entry.value, int | float):
        entry.value = rng.choice(
            (entry.value + 1, entry.value - 1, entry.value * 2, 0, 1, -entry.value, entry.value * 10**6)
        )
    elif entry.kind == gguf_file.STRING:
        entry.value = odd.text(rng)
    else:
        entry.value = odd.number(rng)
    return f"{edit_json.short(entry.key)}: {what}, {edit_json.short(entry.value)} of kind {entry.kind}"


def change_tokens(file: GgufFile, rng: Random) -> str:
    """One of the arrays: tokens, their types, merges."""
    arrays = [one for one in file.entries if one.is_array and one.value]
    if not arrays:
        return "no array is left"
    entry = rng.choice(arrays)
    what = rng.choice(("one", "one", "drop", "add", "twice", "half", "none", "same", "count", "kind"))
    number = rng.randrange(len(entry.value))
    if what == "one":
        entry.value[number] = odd.text(rng) if entry.kind == gguf_file.STRING else odd.number(rng)
    elif what == "drop":
        del entry.value[number]
    elif what == "add":
        entry.value.append(odd.text(rng) if entry.kind == gguf_file.STRING else rng.choice((0, 1, 3, 6, 99)))
    elif what == "twice":
        entry.value *= 2
    elif what in ("half", "none"):
        del entry.value[0 if what == "none" else len(entry.value) // 2 :]
    elif what == "same":
        entry.value[:] = [entry.value[number]] * len(entry.value)
    elif what == "count":
        entry.count = rng.choice((0, 1, 2**31, 2**32, 2**63, len(entry.value) + 1, len(entry.value) - 1))
    else:
        entry.kind = rng.choice((*FORMATS, gguf_file.STRING, gguf_file.ARRAY, 77))
    return f"{entry.key}: {what} of an array, now {len(entry.value)} of kind {entry.kind}"


def change_tensor(file: GgufFile, rng: Random) -> str:
    """A tensor of the header."""
    tensor, other = rng.choice(file.tensors), rng.choice(file.tensors)
    what = rng.choice(("drop", "rename", "twice", "dims", "kind", "offset", "swap", "data"))
    if what == "drop":
        file.tensors.remove(tensor)
    elif what == "rename":
        tensor.name = rng.choice(
            (odd.text(rng), other.name, "rope_freqs.weight", "output.weight", "blk.9.ffn_up.weight")
        )
    elif what == "twice":
        file.tensors.append(gguf_file.Tensor(tensor.name, tensor.dims, tensor.kind, tensor.offset))
    elif what == "dims":
        dims = tensor.dims
        tensor.dims = rng.choice(
            (dims[::-1], [], [*dims, 1], [0], [2**40], [2**40] * 4, [1] * 100, dims[:1], [dims[0] * 2, *dims[1:]])
        )
    elif what == "kind":
        tensor.kind = rng.choice((1, 2, 3, 8, 12, 16, 24, 27, 28, 30, 39, 99, 2**31))
    elif what == "offset":
        tensor.offset = rng.choice((0, 1, 32, 2**63, 2**64 - 32, other.offset, tensor.offset + 4, len(file.data)))
    elif what == "swap":
        tensor.name, other.name = other.name, tensor.name
    else:
        size = rng.choice((0, 32, len(file.data) // 2))
        file.data = file.data[:size] if rng.random() < 0.5 else file.data + b"\0" * size
    return f"{edit_json.short(tensor.name)}: {what}, {tensor.dims[:4]} of kind {tensor.kind} at {tensor.offset}"


def change_frame(file: GgufFile, rng: Random) -> str:
    """The magic, the version, the counts, the alignment; or what means the same."""
    what = rng.choice(("magic", "version", "num_tensors", "num_entries", "alignment", "order", "order"))
    if what == "magic":
        file.magic = rng.choice((b"FUGG", b"GGUf", b"\0\0\0\0", b"ggml"))
    elif what == "version":
        file.version = rng.choice((0, 1, 2, 4, 99, 3 << 24, 2**32 - 1))
    elif what == "alignment":
        file.alignment = rng.choice((1, 8, 64, 4096))
    elif what == "order":
        rng.shuffle(file.entries)
        file.entries.append(Entry("some.key", gguf_file.STRING, odd.text(rng)))
    else:
        true = len(file.tensors if what == "num_tensors" else file.entries)
        setattr(file, what, rng.choice((0, 1, true - 1, true + 1, 2**31, 2**32, 2**63, 2**64 - 1)))
    return f"{what}: {getattr(file, what, '')!r}"


def is_as_said(file: GgufFile, directory: Path) -> Check:
    """A check that the model is the one of the file: its numbers and its tokens."""

    def check(outcome: Outcome) -> str | None:
        written = gguf_file.read(gguf_file.write(file))  # with its data where the format has them
        said = {entry.key: entry.value for entry in written.entries}
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        for name, field in _KEPT.items():
            value = said.get(f"llama.{name}", config.get(field))
            if value not in (config.get(field), [config.get(field)]):
                return f"{field} is {config.get(field)}, but the file says {name} {edit_json.short(value)}"
        tokens, merges = said.get("tokenizer.ggml.tokens"), said.get("tokenizer.ggml.merges")
        tokenizer = json.loads((directory / "tokenizer.json").read_text())
        if tokens is not None and len(set(tokens)) != len(tokens):
            return "two tokens are the same text"
        if merges is not None and len(tokenizer["model"]["merges"]) != len(set(merges)):
            return f"{len(tokenizer['model']['merges'])} merges, but the file has {len(set(merges))}"
        return None if "general.alignment" in said else wrong_tensor(written, directory)

    return check


def wrong_tensor(file: GgufFile, directory: Path) -> str | None:
    """A tensor that is not what the file says; the rows of queries and keys lie in another order."""
    import numpy as np
    from safetensors.numpy import load_file

    found = load_file(directory / "model.safetensors")
    for tensor in file.tensors:
        name = hf_name(tensor.name)
        if tensor.kind != gguf_file.F32 or name not in found or any(dim > 2**20 for dim in tensor.dims):
            continue
        count = int(np.prod(tensor.dims))
        expected = np.frombuffer(file.data, np.uint32, count, tensor.offset)
        ours = np.ascontiguousarray(found[name]).view(np.uint32).flatten()
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            expected, ours = np.sort(expected), np.sort(ours)
        if not np.array_equal(expected, ours):
            return f"{name} is not {tensor.name} of the file"
    return None


def hf_name(name: str) -> str:
    """A tensor's name in a converted model."""
    if name in (whole := {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}):
        return whole[name]
    names = {theirs: ours for ours, theirs in tiny_gguf._TENSORS.items()}
    _, layer, part, *_ = [*name.split("."), "", "", ""]
    return f"model.layers.{layer}.{names.get(part, part)}.weight"
