"""Small random models of every supported family and feature, with the tokens that transformers makes of prompts.

Built once by rank 0 into the cache folder, under a name that changes with this file, its seeds and transformers.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracles

PROMPT_LENGTHS = (1, 37, 71)  # tokens; the longest has more than any window, and than the ropes were made for
NEW_TOKENS = 12


@dataclass(frozen=True)
class Recipe:
    """One model: a configuration of transformers, and how its checkpoint is written."""

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    max_shard_size: str = "1GB"
    stacked: bool = False  # all experts of a layer as one tensor, else one each, as on the hub


def _rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


_LLAMA3 = _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 45}

RECIPES = {
    "llama_tied": Recipe("llama", {"tie_word_embeddings": True}),
    "llama_biases": Recipe("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    "llama_linear_rope": Recipe("llama", _rope("linear", factor=4.0)),
    "llama_dynamic_rope": Recipe("llama", {"max_position_embeddings": 40, **_rope("dynamic", factor=4.0)}),
    "llama_llama3_rope": Recipe("llama", _LLAMA3),
    "llama_one_kv_head": Recipe("llama", {"num_key_value_heads": 1}),
    "mistral_window": Recipe("mistral", {"sliding_window": 16, "head_dim": 12}),
    "mistral_no_window": Recipe("mistral", {"sliding_window": None, "num_key_value_heads": 9}),
    "qwen2": Recipe("qwen2", {"tie_word_embeddings": True}),
    "qwen2_some_windows": Recipe("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3}),
    "qwen2_yarn_rope": Recipe("qwen2", _rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "qwen3": Recipe("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3_bfloat16_shards": Recipe("qwen3", {"head_dim": 16}, "bfloat16", "60KB"),
    "llama_float16": Recipe("llama", {}, "float16"),
    "mixtral": Recipe("mixtral", {"num_local_experts": 5, "intermediate_size": 50, "sliding_window": 16}),
    "mixtral_stacked": Recipe("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 1}, stacked=True),
    "qwen2_moe": Recipe(
        "qwen2_moe",
        {
            **_EXPERTS,
            "shared_expert_intermediate_size": 61,
            "mlp_only_layers": [1],
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 3,
        },
    ),
    "qwen3_moe": Recipe(
        "qwen3_moe", {**_EXPERTS, "head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 2, "num_experts": 7}
    ),
    "olmoe": Recipe("olmoe", {"num_experts": 5, "num_experts_per_tok": 3, "intermediate_size": 50, "clip_qkv": 1.5}),
    "olmoe_one_kv_head": Recipe(
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 1, "norm_topk_prob": True},
        stacked=True,
    ),
}

_COMMON = {
    "vocab_size": 131,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 7,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}


def reference_directory() -> Path:
    """Where the models of this version of the recipes are or will be."""
    from mpi_spp.model.loading.hub import cache_directory

    sources = Path(__file__).read_bytes() + oracles.path_of("models").read_bytes()
    key = hashlib.sha256(sources + importlib.metadata.version("transformers").encode()).hexdigest()[:12]
    return cache_directory() / "tests" / f"models-{key}"


def build_reference_models() -> Path:
    """Make the models from their seeds unless they are there; returns their directory."""
    directory = reference_directory()
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(dir=directory.parent))
        silence_transformers()
        for name, kept in oracles.read("models").items():
            save_random_model(trial / name, RECIPES[name], kept["seed"])
            (trial / name / "reference.json").write_text(json.dumps(kept["tokens"]))
        try:
            os.rename(trial, directory)
        except OSError:  # another process was faster
            shutil.rmtree(trial)
    return directory


def silence_transformers() -> None:
    """No bars and no warnings among the tests' lines."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def prompt_of(name: str, length: int) -> list[int]:
    """A prompt of so many ids, different for every model."""
    first = list(RECIPES).index(name) + 3
    return [(first + 17 * position + position * position // 5) % _COMMON["vocab_size"] for position in range(length)]


def reference_tokens(directory: Path, name: str, length: int) -> list[int]:
    """The greedy float32 tokens of transformers for `prompt_of(name, length)`."""
    return json.loads((directory / name / "reference.json").read_text())[str(length)]


def save_random_model(directory: Path, recipe: Recipe, seed: int) -> None:
    """Norms and biases are random too: a forgotten one must show."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(recipe.model_type, **(_COMMON | recipe.settings))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5 * (3 if "embed" in name else 1.5)
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale + (1.0 if "norm" in name else 0.0)
    model.to(getattr(torch, recipe.dtype)).save_pretrained(
        directory, max_shard_size=recipe.max_shard_size, save_original_format=not recipe.stacked
    )
