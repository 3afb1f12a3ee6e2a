"""What a model's own files say counts as it counts in transformers: the same tokens, or a refusal by name."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import Tensors, build, configure, edit, our_tokens, tokens_of_transformers

from mpi_spp.errors import UserError
from mpi_spp.model.config import read_config
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.finite import weights_in_order

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FULL, SLIDING = "full_attention", "sliding_attention"
SOME_SLIDING = [SLIDING, FULL, SLIDING, FULL]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models of this size take a hundred times as long where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_other_head(tensors: Tensors) -> Tensors:
    """A head of its own beside the embedding, as fine-tunes of tied models have."""
    return tensors | {HEAD: tensors[EMBEDDING].flip(0) + 0.1}


def head_alone(tensors: Tensors) -> Tensors:
    return {HEAD if name == EMBEDDING else name: tensor for name, tensor in tensors.items()}


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def with_one_more_prefix(tensors: Tensors) -> Tensors:
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("change", [dict, with_other_head, head_alone])
def test_a_tied_model_uses_the_head_that_its_file_has(
    tmp_path: Path, model_type: str, change: Callable[[Tensors], Tensors], slices: int
) -> None:
    directory = build(tmp_path / "model", model_type, tie_word_embeddings=True)
    edit(directory, change)
    assert our_tokens(directory, slices) == tokens_of_transformers(directory)


def test_so_do_quantised_weights_and_no_cache_of_other_files_is_taken(tmp_path: Path) -> None:
    directory = build(tmp_path / "model", tie_word_embeddings=True)
    tied = our_tokens(directory, scheme="int8")
    edit(directory, head_alone)
    assert our_tokens(directory, slices=2, scheme="int8") == tied
    edit(directory, lambda tensors: tensors | {EMBEDDING: tensors[HEAD], HEAD: tensors[HEAD].flip(0) + 0.1})
    own = our_tokens(directory, slices=2, scheme="int8")
    configure(directory, tie_word_embeddings=False)
    assert own == our_tokens(directory, scheme="int8") != tied


def test_a_model_that_is_not_tied_needs_both(tmp_path: Path) -> None:
    directory = build(tmp_path / "model", tie_word_embeddings=True)
    configure(directory, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"no safetensors file holds the tensor 'lm_head\.weight'"):
        our_tokens(directory)
    edit(directory, lambda tensors: {name: tensors[name] for name in tensors if name != EMBEDDING})
    configure(directory, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"no safetensors file holds the tensor 'model\.embed_tokens\.weight'"):
        our_tokens(directory)


@pytest.mark.parametrize("model_type", ["llama", "mixtral"])
@pytest.mark.parametrize("change", [without_prefix, with_one_more_prefix])
def test_names_with_another_prefix(tmp_path: Path, model_type: str, change: Callable[[Tensors], Tensors]) -> None:
    directory = build(tmp_path / "model", model_type)
    edit(directory, change)
    assert our_tokens(directory) == tokens_of_transformers(directory)


@pytest.mark.parametrize(
    "name", ["norm.weight", "embed_tokens.weight", "model.model.norm.weight", "model.lm_head.weight"]
)
def test_of_one_tensor_under_two_names_that_is_read_which_transformers_reads(tmp_path: Path, name: str) -> None:
    directory = build(tmp_path / "model")
    original = HEAD if "lm_head" in name else f"model.{name.removeprefix('model.model.')}"
    edit(directory, lambda tensors: tensors | {name: tensors[original].flip(0)})
    assert our_tokens(directory) == tokens_of_transformers(directory)


def test_a_single_file_comes_before_an_index(tmp_path: Path) -> None:
    """Both ways round: beside an index whose shards are gone, and beside one that is whole."""
    single, sharded = build(tmp_path / "single"), build(tmp_path / "sharded", shard="10KB", initializer_range=0.5)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shutil.copy(sharded / "model.safetensors.index.json", single)
    expected = tokens_of_transformers(single)
    assert our_tokens(single) == expected
    assert our_tokens(sharded) == tokens_of_transformers(sharded) != expected
    for name in set(index["weight_map"].values()):
        shutil.copy(sharded / name, single)
    assert our_tokens(single) == tokens_of_transformers(single) == expected


def test_other_files_beside_the_weights_change_nothing(tmp_path: Path) -> None:
    """The same weights under other names, and a model's own code, which is not run."""
    directory = build(tmp_path / "model")
    expected = our_tokens(directory)
    tensors = {name: tensor.flip(0) for name, tensor in load_file(directory / "model.safetensors").items()}
    for name in ("consolidated", "model.fp16", "adapter_model"):
        save_file(tensors, directory / f"{name}.safetensors", metadata={"format": "pt"})
    torch.save(tensors, directory / "pytorch_model.bin")
    (directory / "modeling_own.py").write_text("raise SystemExit('run')")
    configure(directory, auto_map={"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"})
    assert our_tokens(directory) == tokens_of_transformers(directory) == expected


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "olmoe"])
def test_tensors_that_the_configuration_has_no_place_for_are_known(tmp_path: Path, model_type: str) -> None:
    """Layers behind the last, biases, norms: transformers leaves them out, too, and says so."""
    directory = build(tmp_path / "model", model_type)
    checkpoint, names = Checkpoint(directory), weights_in_order(read_config(directory))
    assert checkpoint.unused(names) == []
    assert len(checkpoint.unused(names[:-1])) == 1
    bias, buffer = "model.layers.0.self_attn.k_proj.bias", "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(directory, lambda tensors: tensors | {bias: torch.ones(16), buffer: torch.ones(4)})
    configure(directory, num_hidden_layers=3)
    unused = Checkpoint(directory).unused(weights_in_order(read_config(directory)))
    assert bias in unused and all(name == bias or name.startswith("model.layers.3.") for name in unused)
    assert our_tokens(directory) == tokens_of_transformers(directory)


def test_an_adapter_is_no_part_of_a_model_in_silence(tmp_path: Path) -> None:
    """transformers adds it to the weights where peft is installed."""
    directory = build(tmp_path / "model")
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter .* merge it into the model"):
        our_tokens(directory)
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file.*holds an adapter: merge that"):
        our_tokens(directory)


@pytest.mark.parametrize(
    "model_type, settings, changes",
    [
        ("mistral", {"sliding_window": 5}, {"layer_types": SOME_SLIDING}),  # which makes it a ministral there
        ("mistral", {"sliding_window": 5}, {"layer_types": [SLIDING] * 4}),
        ("qwen3", {"head_dim": 8, "sliding_window": 5, "use_sliding_window": True}, {"layer_types": SOME_SLIDING}),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}, {}),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": False}, {"layer_types": [FULL] * 4}),
        ("llama", {}, {"sliding_window": 64}),
    ],
)
def test_windows(tmp_path: Path, model_type: str, settings: dict[str, Any], changes: dict[str, Any]) -> None:
    directory = build(tmp_path / "model", model_type, **settings)
    configure(directory, **changes)
    assert our_tokens(directory) == tokens_of_transformers(directory)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_codes_do_not_hide_a_nan(tmp_path: Path, scheme: str) -> None:
    directory = build(tmp_path / "model")
    edit(directory, lambda tensors: tensors | {HEAD: tensors[HEAD].index_fill(0, torch.tensor([3]), torch.nan)})
    with pytest.raises(UserError, match=r"lm_head\.weight holds nan or inf"):
        our_tokens(directory, scheme=scheme)
