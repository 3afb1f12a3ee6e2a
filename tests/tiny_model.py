"""A tiny random model on disk, the tokens that transformers makes of a prompt, and those of our stages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference_models import silence_transformers
from safetensors.torch import load_file, save_file

from mpi_spp.kernels.plain import Plain
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import read_config
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.quantized import QuantizedStore
from mpi_spp.model.loading.weights import load_stage, quantize_model, require_weights, whole_layers
from mpi_spp.parallel.partition import split_evenly

Tensors = dict[str, torch.Tensor]

PROMPT, NEW_TOKENS = [5, 17, 3, 88, 41, 9, 60, 2, 77, 30, 11, 54], 8
SETTINGS = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.3,
}
CPU = torch.device("cpu")


def build(directory: Path, model_type: str = "llama", shard: str = "1GB", **settings: Any) -> Path:
    """Save one of transformers' own, float32; `shard`: the largest size of a file."""
    from transformers import AutoConfig, AutoModelForCausalLM

    silence_transformers()
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **SETTINGS | settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory, max_shard_size=shard)
    return directory


def configure(directory: Path, **changes: Any) -> None:
    """Change fields of its config.json; None takes one away."""
    path = directory / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def edit(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Put other tensors into its file."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.contiguous().clone() for name, tensor in change(load_file(path)).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def tokens_of_transformers(directory: Path) -> list[int]:
    """Greedy, float32."""
    from transformers import AutoModelForCausalLM

    silence_transformers()
    model, prompt = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), torch.tensor([PROMPT])
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False)
    return ids[0, len(PROMPT) :].tolist()


def our_tokens(directory: Path, slices: int = 1, scheme: str | None = None) -> list[int]:
    """Greedy, float32, with so many slices of the vocabulary; `scheme`: of weights that are quantised first."""
    config, checkpoint = read_config(directory), Checkpoint(directory)
    require_weights(checkpoint, config)
    store = None
    if scheme is not None:
        store = QuantizedStore(directory.parent / "quantized", directory, checkpoint.files, scheme, 16)
        quantize_model(checkpoint, config, store, slice(None))
    layers = range(config.num_hidden_layers)
    stages = [
        load_stage(checkpoint, config, whole_layers(layers), rows, torch.float32, CPU, Plain(), store)
        for rows in split_evenly(config.vocab_size, slices)
    ]
    cache, ids = stages[0].new_cache(layers, len(PROMPT) + NEW_TOKENS), list(PROMPT)
    new = range(len(ids))
    for _ in range(NEW_TOKENS):
        hidden = stages[0].embed(torch.tensor(ids[new.start :]))
        hidden = stages[0].forward(hidden, one_span(new, cache, len(ids)), layers)[-1:]
        ids.append(int(torch.cat([stage.logits(hidden) for stage in stages], dim=1).argmax()))
        new = range(len(ids) - 1, len(ids))
    return ids[len(PROMPT) :]
