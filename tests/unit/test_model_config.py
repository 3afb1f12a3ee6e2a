"""Reading config.json: the supported is read as transformers does, anything else is refused in one line."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig, read_config
from mpi_spp.parallel.shares import Experts

DEFAULTS = {
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
}
REMOVED = object()


def read(directory: Path, **changes: Any) -> ModelConfig:
    settings = {name: value for name, value in (DEFAULTS | changes).items() if value is not REMOVED}
    (directory / "config.json").write_text(json.dumps(settings))
    return read_config(directory)


def rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2}
QWEN2_MOE = _EXPERTS | {
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 30,
    "shared_expert_intermediate_size": 40,
    "mlp_only_layers": [1],
}
SOME_SLIDING = ["full_attention", "sliding_attention"] * 2
OLMOE = _EXPERTS | {"model_type": "olmoe", "clip_qkv": 8.0}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"head_dim": 8, "query_groups": 3, "qkv_bias": False, "qk_norm": False, "dtype": None}),
        ({"head_dim": 16}, {"head_dim": 16}),
        ({"num_key_value_heads": REMOVED}, {"num_key_value_heads": 9}),  # as the first Llama has it
        ({"attention_bias": True}, {"qkv_bias": True, "output_bias": True, "mlp_bias": False}),
        ({"mlp_bias": True}, {"qkv_bias": False, "mlp_bias": True}),
        ({"torch_dtype": "bfloat16"}, {"dtype": torch.bfloat16}),  # the spelling before transformers 5
        ({"dtype": "float16"}, {"dtype": torch.float16}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {"max_positions": 512}),  # an old spelling
        (rope("dynamic", factor=4.0), {"max_positions": 1024}),
        (rope("yarn", factor=4.0, original_max_position_embeddings=128), {"max_positions": 512}),
        ({"sliding_window": 256}, {"sliding_windows": (None,) * 4}),  # as many as there are positions
        ({"model_type": "mistral", "sliding_window": 4}, {"sliding_windows": (4,) * 4}),
        ({"model_type": "mistral", "sliding_window": None}, {"sliding_windows": (None,) * 4}),
        (
            {"model_type": "mistral", "sliding_window": 4, "layer_types": SOME_SLIDING},
            {"sliding_windows": (None, 4, None, 4)},
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention"] * 4, "sliding_window": 4},
            {"sliding_windows": (None,) * 4},
        ),
        ({"layer_types": ["attention"] * 4}, {"sliding_windows": (None,) * 4}),  # an older word
        ({"model_type": "qwen2", "sliding_window": 4}, {"sliding_windows": (None,) * 4, "qkv_bias": True}),
        (
            {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
            {"sliding_windows": (None, 4, 4, 4)},
        ),
        ({"model_type": "qwen3"}, {"head_dim": 128, "qk_norm": True, "qkv_bias": False}),
        (MIXTRAL, {"experts": Experts(5, 2, 100, normalized=True), "expert_layers": (True,) * 4}),
        (QWEN2_MOE, {"experts": Experts(5, 2, 30, 40), "expert_layers": (True, False, True, True), "qkv_bias": True}),
        (QWEN2_MOE, {"sliding_windows": (None,) * 4, "widest": 100}),
        (
            {**QWEN2_MOE, "model_type": "qwen3_moe", "decoder_sparse_step": 2},
            {"expert_layers": (False, False, False, True)},
        ),
        (OLMOE, {"experts": Experts(5, 2, 100), "qk_norm_over_heads": True, "clip_qkv": 8.0, "sums_a_layer": 3}),
    ],
)
def test_supported(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = read(tmp_path, **changes)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name != "num_key_value_heads"])
@pytest.mark.parametrize("value", [REMOVED, None])
def test_a_missing_field_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name}"):
        read(tmp_path, **{name: value})


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name != "model_type"])
@pytest.mark.parametrize("value", [0, -1, "many", 2.5, [1]])
def test_a_field_that_cannot_be_is_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(UserError):
        read(tmp_path, **{name: value})


@pytest.mark.parametrize(
    "changes, named",
    [
        (
            {"model_type": "gpt2"},
            "'gpt2' is not supported; supported are llama, mistral, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, olmoe",
        ),
        ({"model_type": ["llama"]}, "not supported"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "'quantization' says that the weights are quantised"),  # MLX
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"configuration_files": ["config.5.0.0.json"]}, "configuration_files"),
        ({"is_causal": False}, "is_causal is false"),
        ({"num_key_value_heads": 2}, "num_attention_heads 9 is no multiple of num_key_value_heads 2"),
        ({"hidden_size": 70}, "70"),
        ({"head_dim": 7}, "even"),
        ({"hidden_act": "swish2"}, "hidden_act 'swish2'"),
        ({"sliding_window": 0, "model_type": "mistral"}, "sliding_window is 0"),
        ({"layer_types": ["linear_attention"] * 4, "model_type": "qwen2"}, "linear_attention"),
        ({"layer_types": ["full_attention"], "model_type": "qwen2"}, "layer_types"),
        ({"layer_types": SOME_SLIDING, "model_type": "qwen2"}, "but use_sliding_window is missing"),
        (
            {"layer_types": SOME_SLIDING, "model_type": "qwen3", "sliding_window": 16, "use_sliding_window": False},
            "layer_types has 'sliding_attention', but use_sliding_window is False; make them say the same",
        ),
        (
            {"layer_types": SOME_SLIDING, "model_type": "qwen3", "sliding_window": None, "use_sliding_window": True},
            "but sliding_window is None",
        ),
        ({"layer_types": SOME_SLIDING, "model_type": "mistral", "sliding_window": None}, "but sliding_window is None"),
        ({**QWEN2_MOE, "layer_types": SOME_SLIDING}, "but use_sliding_window is missing"),
        ({"sliding_window": 16}, "sliding_window is 16, but a llama has no windows; take it away"),
        ({**OLMOE, "sliding_window": 16}, "olmoe has no windows"),
        ({"layer_types": SOME_SLIDING, "sliding_window": 256}, "all layers of a llama are full_attention"),
        ({**MIXTRAL, "layer_types": SOME_SLIDING, "sliding_window": 16}, "of a mixtral are sliding_attention"),
        ({**MIXTRAL, "num_local_experts": REMOVED}, "num_local_experts"),
        ({**MIXTRAL, "num_experts_per_tok": 6}, "num_experts_per_tok is 6, but there are only 5 experts"),
        ({**QWEN2_MOE, "moe_intermediate_size": None}, "moe_intermediate_size"),
        ({**QWEN2_MOE, "shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size is 0"),
        (rope("default", partial_rotary_factor=0.5), "partial_rotary_factor 0.5 is not supported"),
        (rope("longrope", factor=2.0, long_factor=[1.0] * 4, short_factor=[1.0] * 4), "longrope|long_factor"),
        (rope("spiral"), "spiral"),
        (rope("linear"), "factor"),
        (rope("linear", factor="much"), "factor"),
        (rope("llama3", factor=2.0), "high_freq_factor|low_freq_factor"),
    ],
)
def test_the_unsupported_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        read(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


ROPES = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "attention_factor": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0},
    "llama3": {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize(
    "value", ["nan", "Infinity", "-Infinity", "-1", "1e999", "1" + "0" * 400, '"1"', "[1]", "true"]
)
@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta", "clip_qkv", *ROPES])
def test_no_number_is_named(tmp_path: Path, name: str, value: str) -> None:
    """Of the rope parameters each in turn."""
    value = {"nan": "NaN"}.get(value, value)
    for part in ROPES.get(name, [None]):
        changes = rope(name, **ROPES[name] | {part: "VALUE"}) if part else {name: "VALUE"}
        settings = json.dumps(DEFAULTS | (OLMOE if name == "clip_qkv" else {}) | changes).replace('"VALUE"', value)
        (tmp_path / "config.json").write_text(settings)
        with pytest.raises(UserError, match=rf"config\.json: '?{part or name}'? .*must be a"):
            read_config(tmp_path)


@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta", "clip_qkv"])
def test_zero_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is 0, but must be a number above 0"):
        read(tmp_path, **OLMOE | {name: 0})


@pytest.mark.parametrize(
    "changes",
    [
        {**rope("dynamic", factor=2.0), "head_dim": 2},  # by what is left of it without a pair is divided
        rope("linear", factor=1e-30),
        rope("linear", factor=1e30),
        {"rope_theta": None},
    ],
)
def test_rope_parameters_without_angles_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="rope parameters"):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"num_hidden_layers": 2**31}, "num_hidden_layers is 2147483648, but must be a whole number from 1 to 4096"),
        ({"head_dim": 10**29}, "head_dim is 10+, but must be a whole number from 1 to 65536"),
        ({"head_dim": 3}, "head_dim is 3, but must be even"),
        ({"vocab_size": 10**400}, "vocab_size is 1"),
        ({"num_labels": 10**12}, "num_labels is 1000000000000"),
        ({"hidden_act": "x" * 10**5}, "hidden_act 'x"),
        ({**QWEN2_MOE, "num_key_value_heads": None}, "num_key_value_heads is null"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', but must be true or false"),
        ({"attention_bias": 1}, "attention_bias is 1"),
        ({"num_key_value_heads": True}, "num_key_value_heads is True"),
        ({"dtype": "load"}, "dtype is 'load', but must be the name of a dtype"),
        ({"rope_parameters": [1]}, "rope_parameters is .* an object"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 10**5}, "layer_types is .* 4096 at most"),
        ({**QWEN2_MOE, "num_experts": 10**6}, "num_experts is 1000000"),
        ({**QWEN2_MOE, "num_experts": 2**16}, "65536 experts in each of 4 layers are more than 131072"),
        ({**QWEN2_MOE, "mlp_only_layers": [0.5]}, "mlp_only_layers"),
    ],
)
def test_limits_are_checked_before_anything_is_made(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    before = time.perf_counter()
    with pytest.raises(UserError, match=named) as caught:
        read(tmp_path, **changes)
    assert time.perf_counter() - before < 0.5
    assert len(str(caught.value)) < 500


def test_fields_that_make_no_difference_are_not_looked_at(tmp_path: Path) -> None:
    assert read(tmp_path, id2label=3, auto_map=[], num_experts="none").num_hidden_layers == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"[1]", b'"llama"', b'{"model_type": "\xff"}'])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Hugging Face model directory"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("gone")]
)
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path)
