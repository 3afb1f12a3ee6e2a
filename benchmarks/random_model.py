"""Builds models with random weights: the speed of a shape that no package index carries, without its answers.

    .venv/bin/python -m benchmarks.random_model [qwen3-491m|qwen3-moe-428m]

Prints the directory. A model is built once, in `models-random` of the cache directory.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from mpi_spp.model.loading import hub as store

_QWEN3 = {
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 49_152,
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-491m": {"num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, **_QWEN3},
    "qwen3-moe-428m": {
        "num_hidden_layers": 12,
        "hidden_size": 1024,
        "intermediate_size": 3072,  # of no layer, but transformers asks for it
        **_QWEN3,
        "model_type": "qwen3_moe",
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "norm_topk_prob": True,
    },
}
_TOKENIZER = "smollm2-135m-instruct"  # of the same vocabulary: some peers do not start without one
_SEED = 0


def directory_of(name: str) -> Path:
    """Where the model of this name lies, or would lie."""
    return store.cache_directory() / "models-random" / name


def get(name: str) -> Path:
    """Build the model, unless it is there, and return its directory."""
    directory = directory_of(name)
    if not (directory / "config.json").exists():
        work = directory.with_name(f".{name}.work")
        shutil.rmtree(work, ignore_errors=True)
        _build(SHAPES[name], work)
        shutil.rmtree(directory, ignore_errors=True)
        work.rename(directory)
    return directory


def _build(shape: dict[str, Any], directory: Path) -> None:
    """Write configuration, bfloat16 weights of a fixed seed, and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(_SEED)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).to(torch.bfloat16)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(store.get(_TOKENIZER) / name, directory)


if __name__ == "__main__":
    print(get(*sys.argv[1:] or ["qwen3-491m"]))
