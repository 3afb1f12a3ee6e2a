"""Weights: headers, offsets, dtypes, shapes and numbers of safetensors files, and the index of shards."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import odd
import oracle
from case import Case, Room
from verdict import is_finite_json

from kinds.config import answer_words

# fmt: off
_DTYPES = (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "U32", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "f32", "", "x",
)
# fmt: on


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy(rng.choice((*bases.families(), "shards", "shards")))
    told = [change(room, model, draw) for draw in draws]
    asks = oracle.generates(model, oracle.ids(bases.PROMPT_IDS), bases.NEW_TOKENS)
    names = (".safetensors", "ROOM/model")
    return Case(answer_words(model), names=names, check=is_finite_json, oracle=asks, told=told)


def change(room: Room, model: Path, rng: Random) -> str:
    """One change of one of the files."""
    files = sorted(path for path in model.glob("*.safetensors") if path.is_file())
    index = model / "model.safetensors.index.json"
    drawn = rng.random()
    if index.exists() and drawn < 0.35:
        return edit_index(room, index, rng)
    if drawn < 0.42:
        return add_index(room, model, rng)
    if not files:
        return "no file is left"
    path = rng.choice(files)
    if drawn < 0.55:
        return edit_files.spoil(room, path, rng)
    try:
        header, data = read(path)
    except ValueError:
        return edit_files.spoil(room, path, rng)
    if drawn < 0.75:
        done = edit_header(header, rng)
        write(room, path, header, data)
        return f"{path.name}: {done}"
    return f"{path.name}: {edit_tensors(room, path, rng)}"


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data. Raises ValueError for what is no safetensors file."""
    content = edit_files.content_of(path)
    if len(content) < 8:
        raise ValueError("too short")
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict) or not all(isinstance(one, dict) for one in header.values()):
        raise ValueError("no header")
    return header, content[8 + length :]


def write(room: Room, path: Path, header: Any, data: bytes, length: int | None = None) -> None:
    """A file of these."""
    text = edit_json.dump(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    room.write(path, struct.pack("<Q", (len(text) if length is None else length) % 2**64) + text + data)


def edit_header(header: dict[str, Any], rng: Random) -> str:
    """What the header says of a tensor, and is not so."""
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    one = header[name]
    what = rng.choice(("dtype", "shape", "offsets", "drop", "rename", "metadata", "any", "same"))
    if what == "dtype":
        one["dtype"] = rng.choice(_DTYPES)
    elif what == "shape":
        one["shape"] = rng.choice(
            ([], one["shape"][::-1], [*one["shape"], 1], [2**40, 2**40], [0], [-1], odd.value(rng))
        )
    elif what == "offsets":
        one["data_offsets"] = rng.choice(
            ([0, 4], [0, 2**63], [-1, 3], [8, 0], [0], header[rng.choice(names)].get("data_offsets"), odd.value(rng))
        )
    elif what == "drop":
        del header[name]
    elif what == "rename":
        header[rng.choice(("x", name + ".", "model." + name, name.removeprefix("model."), rng.choice(names)))] = (
            header.pop(name)
        )
    elif what == "metadata":
        header["__metadata__"] = rng.choice(
            ({}, {"format": "tf"}, {"format": "mlx"}, {"a": "b" * 1000}, odd.value(rng))
        )
    elif what == "any":
        return edit_json.edit(header, rng)
    return f"{name}: {what}, {edit_json.short(header.get(name))}"


def edit_tensors(room: Room, path: Path, rng: Random) -> str:
    """A whole file with other tensors."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    try:
        tensors = load(edit_files.content_of(path))
    except SafetensorError:
        return edit_files.spoil(room, path, rng)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    changes = {
        "half the rows": lambda: tensor[: len(tensor) // 2],
        "a row more": lambda: torch.cat([tensor, tensor[:1]]),
        "transposed": lambda: tensor.T if tensor.dim() == 2 else tensor,
        "one number": lambda: tensor.flatten()[0],
        "empty": lambda: tensor[:0],
        "nan": lambda: torch.full_like(tensor, float("nan")),
        "one nan": lambda: _with_one(tensor, float("nan")),
        "inf": lambda: _with_one(tensor, float("inf")),
        "huge": lambda: tensor * 1e38,
        "float64": lambda: tensor.double(),
        "float16": lambda: tensor.half(),
        "bfloat16": lambda: tensor.bfloat16(),
        "int64": lambda: tensor.long(),
        "uint8": lambda: tensor.abs().to(torch.uint8),
        "float8": lambda: tensor.to(torch.float8_e4m3fn),
        "bool": lambda: tensor > 0,
        "zeros": lambda: torch.zeros_like(tensor),
    }
    what = rng.choice(
        (*changes, "dropped", "twice", "prefix", "no prefix", "extra", "quantised", "head is the embedding")
    )
    if what in changes:
        tensors[name] = changes[what]()
    elif what == "dropped":
        del tensors[name]
    elif what == "twice":
        tensors[f"model.{name}"] = tensor.clone() + 1
    elif what in ("prefix", "no prefix"):
        tensors = {
            f"model.{key}" if what == "prefix" else key.removeprefix("model."): one for key, one in tensors.items()
        }
    elif what == "extra":
        tensors[rng.choice(("x", "model.layers.9.x", "lm_head.bias", "visual.weight"))] = torch.ones(3)
    elif what == "quantised":
        tensors[name + "_scale_inv"] = torch.ones(1)
    elif "lm_head.weight" in tensors:
        tensors["model.embed_tokens.weight"] = tensors.pop("lm_head.weight").clone()
        name = "lm_head.weight"
    room.write(path, save({key: one.contiguous().clone() for key, one in tensors.items()}, {"format": "pt"}))
    return f"{name}: {what}"


def _with_one(tensor: Any, number: float) -> Any:
    changed = tensor.clone()
    changed.flatten()[0] = number
    return changed


def edit_index(room: Room, index: Path, rng: Random) -> str:
    """The index of shards."""
    document = edit_json.load(index)
    weights = document.get("weight_map") if isinstance(document, dict) else None
    what = rng.choice(("json", "json", "file", "value", "missing", "spoil"))
    if what == "spoil" or not isinstance(weights, dict) or not weights:
        return edit_files.spoil(room, index, rng)
    if what == "json":
        return edit_json.edit_file(room, index, rng)
    name = rng.choice(sorted(weights))
    if what == "missing":
        del weights[name]
    else:
        paths = ("../model/model.safetensors", "/dev/zero", "/etc/passwd", "config.json", "", ".", "x" * 300, "a\0b")
        weights[name] = rng.choice((*paths, *weights.values())) if what == "file" else odd.value(rng)
    room.write(index, edit_json.dump(document))
    return f"{index.name}: {name}: {what} {edit_json.short(weights.get(name))}"


def add_index(room: Room, model: Path, rng: Random) -> str:
    """An index beside a whole file, of shards that are not there."""
    try:
        names = list(read(model / "model.safetensors")[0])
    except ValueError:
        names = ["x"]
    shards = {name: "model-00001-of-00002.safetensors" for name in names if name != "__metadata__"}
    document = rng.choice(({"weight_map": shards}, {"weight_map": {}}, {}, {"metadata": {}, "weight_map": shards}))
    room.write(model / "model.safetensors.index.json", json.dumps(document))
    return f"an index of shards that are not there, {len(document.get('weight_map', ()))} tensors"
