"""Reading safetensors: what is whole is read exactly, and what is not is named in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mpi_spp.errors import UserError
from mpi_spp.model.loading.checkpoint import Checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TENSORS = {"a": torch.arange(12.0).view(4, 3), "b": torch.ones(5)}
SHAPES: dict[str, tuple[int, ...]] = {"a": (4, 3), "b": (5,)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / SINGLE)
    return tmp_path


def shards(directory: Path) -> None:
    """The same tensors in two files and an index."""
    (directory / SINGLE).unlink()
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, directory / f"{name}.safetensors")
    write_index(directory, {"weight_map": {name: f"{name}.safetensors" for name in TENSORS}})


def write_index(directory: Path, content: object) -> None:
    (directory / SINGLE).unlink(missing_ok=True)
    (directory / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize("sharded", [False, True])
def test_reads_whole_tensors_and_rows(directory: Path, sharded: bool) -> None:
    if sharded:
        shards(directory)
    checkpoint = Checkpoint(directory)
    checkpoint.require(SHAPES)
    assert torch.equal(checkpoint.read("a"), TENSORS["a"])
    assert torch.equal(checkpoint.read("a", range(1, 3)), TENSORS["a"][1:3])
    assert checkpoint.read("a", range(2, 2)).shape == (0, 3)
    assert torch.equal(checkpoint.read("b"), TENSORS["b"])


def test_shards_that_are_not_needed_need_not_be_there(directory: Path) -> None:
    shards(directory)
    (directory / "b.safetensors").unlink()
    Checkpoint(directory).require({"a": (4, 3)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_the_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(4, 3).to(dtype)
    save_file({"a": values}, tmp_path / SINGLE)
    assert torch.equal(Checkpoint(tmp_path).read("a"), values)
    assert Checkpoint(tmp_path).read("a").dtype == dtype


STACK = {"gate_up": torch.arange(3 * 8 * 2.0).view(3, 8, 2), "down": torch.arange(3 * 2 * 4.0).view(3, 2, 4)}


def stored_experts(form: str) -> dict[str, torch.Tensor]:
    """Three experts of four columns in the forms that are found in files."""
    if form == "stacked":
        return {f"model.layers.0.mlp.experts.{name}_proj": stack for name, stack in STACK.items()}
    names = ("w1", "w3", "w2") if form == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    path = "block_sparse_moe" if form == "mixtral" else "mlp"
    parts = [*STACK["gate_up"].chunk(2, dim=1), STACK["down"]]
    return {
        f"model.layers.0.{path}.experts.{number}.{name}.weight": part[number].contiguous()
        for name, part in zip(names, parts, strict=True)
        for number in range(3)
    }


@pytest.mark.parametrize("form", ["stacked", "mixtral", "one each"])
def test_experts_are_found_in_any_form(tmp_path: Path, form: str) -> None:
    router = {f"model.layers.0.{'block_sparse_moe' if form == 'mixtral' else 'mlp'}.gate.weight": torch.ones(3, 2)}
    save_file(stored_experts(form) | router, tmp_path / SINGLE)
    checkpoint, path = Checkpoint(tmp_path), "model.layers.0.mlp.experts"
    checkpoint.require({"model.layers.0.mlp.gate.weight": (3, 2)})
    for number in range(3):
        parts = {
            "gate": STACK["gate_up"][number, :4],
            "up": STACK["gate_up"][number, 4:],
            "down": STACK["down"][number],
        }
        for kind, expected in parts.items():
            name = f"{path}.{number}.{kind}_proj.weight"
            checkpoint.require({name: tuple(expected.shape)})
            assert torch.equal(checkpoint.read(name), expected)
            assert torch.equal(checkpoint.read(name, rows=range(1, 2)), expected[1:2])
            assert torch.equal(checkpoint.read(name, columns=range(1, 2)), expected[:, 1:2])


def test_experts_of_two_prefixes_are_refused(tmp_path: Path) -> None:
    """transformers would give them other numbers."""
    experts, name = stored_experts("one each"), "model.layers.0.mlp.experts.1.up_proj.weight"
    save_file(experts | {name.removeprefix("model."): experts.pop(name)}, tmp_path / SINGLE)
    with pytest.raises(UserError, match=r"experts begin with '' and 'model\.'; they must be alike"):
        Checkpoint(tmp_path).require(
            {f"model.layers.0.mlp.experts.{number}.up_proj.weight": (4, 2) for number in (0, 1)}
        )


def test_experts_that_are_not_there_are_named(tmp_path: Path) -> None:
    save_file(stored_experts("stacked"), tmp_path / SINGLE)
    with pytest.raises(UserError, match=r"gate_up_proj has no expert 3, but config\.json asks for it"):
        Checkpoint(tmp_path).require({"model.layers.0.mlp.experts.3.up_proj.weight": (4, 2)})
    with pytest.raises(UserError, match=r"0\.down_proj\.weight has shape \[2, 4\]"):
        Checkpoint(tmp_path).require({"model.layers.0.mlp.experts.0.down_proj.weight": (2, 5)})


def truncate(directory: Path, size: int) -> None:
    path = directory / SINGLE
    path.write_bytes(path.read_bytes()[:size])


def overwrite(directory: Path, start: int, content: bytes) -> None:
    path = directory / SINGLE
    old = path.read_bytes()
    path.write_bytes(old[:start] + content + old[start + len(content) :])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda d: (d / SINGLE).unlink(), "holds neither .* are read$"),
    "a pickle": (lambda d: (d / SINGLE).rename(d / "pytorch_model.bin"), "not pytorch_model.bin: load it by transf"),
    "pickled shards": (lambda d: (d / SINGLE).rename(d / "pytorch_model.bin.index.json"), "json: load it by transf"),
    "Mistral's own file": (lambda d: (d / SINGLE).rename(d / "consolidated.safetensors"), "not consolidated.*: get"),
    "another dtype": (lambda d: (d / SINGLE).rename(d / "model.fp16.safetensors"), "not model.fp16.*: get the mo"),
    "an adapter alone": (lambda d: (d / SINGLE).rename(d / "adapter_model.safetensors"), "merge the adapter into"),
    "GGUF": (lambda d: (d / SINGLE).rename(d / "model.Q4_K.gguf"), "not model.Q4_K.gguf: convert it with `mpi-spp"),
    "cut in the data": (lambda d: truncate(d, -10), SINGLE),
    "cut in the header": (lambda d: truncate(d, 20), SINGLE),
    "empty file": (lambda d: truncate(d, 0), SINGLE),
    "header of absurd length": (lambda d: overwrite(d, 0, b"\xff" * 8), SINGLE),
    "header that is no JSON": (lambda d: overwrite(d, 8, b"#" * 30), SINGLE),
    "a directory": (lambda d: ((d / SINGLE).unlink(), (d / SINGLE).mkdir()), SINGLE),
    "a tensor less": (lambda d: save_file({"a": TENSORS["a"]}, d / SINGLE), "'b'"),
    "another shape": (lambda d: save_file(TENSORS | {"a": torch.ones(3, 4)}, d / SINGLE), r"a has shape \[3, 4\]"),
    "integers": (lambda d: save_file(TENSORS | {"b": torch.ones(5).to(torch.int8)}, d / SINGLE), "b is of dtype I8"),
    "fp8": (lambda d: save_file(TENSORS | {"b": torch.ones(5).to(torch.float8_e4m3fn)}, d / SINGLE), "F8_E4M3"),
    "index with a missing shard": (
        lambda d: (shards(d), (d / "b.safetensors").unlink()),
        "b.safetensors: no such file",
    ),
    "index with a wrong shard": (
        lambda d: (shards(d), save_file({"z": torch.ones(1)}, d / "b.safetensors")),
        "b.safetensors: 'b' cannot be read",
    ),
    "index with a tensor less": (
        lambda d: (shards(d), write_index(d, {"weight_map": {"a": "a.safetensors"}})),
        "'b'",
    ),
    "index that is no JSON": (lambda d: (write_index(d, {}), (d / INDEX).write_text("{")), INDEX),
    "index that is not UTF-8": (lambda d: (write_index(d, {}), (d / INDEX).write_bytes(b"\xff")), INDEX),
    "index without a map": (lambda d: write_index(d, {}), INDEX),
    "a pipe": (lambda d: ((d / SINGLE).unlink(), os.mkfifo(d / SINGLE)), "it is no regular file"),
    "a device": (lambda d: ((d / SINGLE).unlink(), (d / SINGLE).symlink_to("/dev/zero")), "it is no regular file"),
    "a link to nothing": (lambda d: ((d / SINGLE).unlink(), (d / SINGLE).symlink_to("gone")), "points to a file"),
    "a pipe for a shard": (
        lambda d: (shards(d), (d / "b.safetensors").unlink(), os.mkfifo(d / "b.safetensors")),
        r"b\.safetensors: .*it is no regular file",
    ),
    "a header of a gigabyte": (lambda d: overwrite(d, 0, (1 << 30).to_bytes(8, "little")), "1073741824 bytes"),
    "MLX weights": (
        lambda d: save_file(TENSORS | {"b": torch.ones(5, dtype=torch.uint32), "b.scales": torch.ones(5)}, d / SINGLE),
        "b is of dtype U32; .* nothing quantised",
    ),
    "AWQ weights": (lambda d: save_file({"a.qweight": torch.ones(3)}, d / SINGLE), "'a'; these weights are quantised"),
    "an adapter": (lambda d: save_file({"a.lora_A.weight": torch.ones(3)}, d / SINGLE), "'a'; these .* an adapter"),
    "index that is a pipe": (lambda d: (write_index(d, {}), (d / INDEX).unlink(), os.mkfifo(d / INDEX)), INDEX),
    "index that is a device": (
        lambda d: (write_index(d, {}), (d / INDEX).unlink(), (d / INDEX).symlink_to("/dev/zero")),
        "more than 64 MiB",
    ),
    "index with deep JSON": (lambda d: (write_index(d, {}), (d / INDEX).write_text("[" * 10**5)), "nested too deeply"),
    "index with half a character": (
        lambda d: (write_index(d, {}), (d / INDEX).write_text('{"weight_map": {"a": "\\ud800"}}')),
        "surrogates not allowed",
    ),
    "index with a name that is too long": (lambda d: write_index(d, {"weight_map": {"a": "x" * 5000}}), "too long"),
    "an index that leads elsewhere": (
        lambda d: write_index(d, {"weight_map": {"a": "/dev/zero"}}),
        "'/dev/zero' is outside",
    ),
    "an index that leads up": (lambda d: write_index(d, {"weight_map": {"a": "x/../../a"}}), "is outside"),
    "a file of nulls": (
        lambda d: ((d / SINGLE).unlink(), (d / SINGLE).touch(), os.truncate(d / SINGLE, 1 << 40)),
        "the length of a header",
    ),
    "index that is a list": (lambda d: write_index(d, [1]), INDEX),
    "index whose map is a list": (lambda d: write_index(d, {"weight_map": ["a"]}), INDEX),
    "index whose map is null": (lambda d: write_index(d, {"weight_map": None}), INDEX),
    "index with a number for a file": (lambda d: write_index(d, {"weight_map": {"a": 3, "b": SINGLE}}), INDEX),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_before_anything_is_read(directory: Path, damage: str) -> None:
    do_damage, named = DAMAGES[damage]
    do_damage(directory)
    with pytest.raises(UserError, match=named) as caught:
        Checkpoint(directory).require(SHAPES)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
