"""Small random models of every supported family and feature, with the tokens that transformers makes of prompts.

Built once by rank 0 into the cache folder, under a name that changes with this file and with transformers.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT_LENGTHS = (1, 37, 100)
NEW_TOKENS = 12
SMALLEST_GAP = 1e-3  # between the two best logits of every step, so that rounding cannot decide
_ROUTER_FACTOR = 50  # probabilities are smaller than logits, and there are many more of them


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
    import transformers

    from mpi_spp.model.store import cache_directory

    key = hashlib.sha256(Path(__file__).read_bytes() + transformers.__version__.encode()).hexdigest()[:12]
    return cache_directory() / "tests" / f"models-{key}"


def build_reference_models() -> Path:
    """Make the models and their references unless they are there; returns their directory."""
    import transformers

    directory = reference_directory()
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(dir=directory.parent))
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        for name, recipe in RECIPES.items():
            _build(trial / name, recipe)
        try:
            os.rename(trial, directory)
        except OSError:  # another process was faster
            shutil.rmtree(trial)
    return directory


def prompt_of(name: str, length: int) -> list[int]:
    """A prompt of so many ids, different for every model."""
    first = list(RECIPES).index(name) + 3
    return [(first + 17 * position + position * position // 5) % _COMMON["vocab_size"] for position in range(length)]


def reference_tokens(directory: Path, name: str, length: int) -> list[int]:
    """The greedy float32 tokens of transformers for `prompt_of(name, length)`."""
    return json.loads((directory / name / "reference.json").read_text())[str(length)]


def _build(directory: Path, recipe: Recipe) -> None:
    """Take the first seed whose greedy tokens are decided clearly."""
    for seed in range(50):
        _save_random_model(directory, recipe, seed)
        answers = {
            length: greedy(directory, prompt_of(directory.name, length), NEW_TOKENS) for length in PROMPT_LENGTHS
        }
        if min(gap for _, gap in answers.values()) > SMALLEST_GAP:
            tokens = {length: tokens for length, (tokens, _) in answers.items()}
            (directory / "reference.json").write_text(json.dumps(tokens))
            return
    raise AssertionError(f"{directory.name}: no seed decides every token by more than {SMALLEST_GAP}")


def _save_random_model(directory: Path, recipe: Recipe, seed: int) -> None:
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


def save_quantized(source: Path, directory: Path, bits: int, group: int = 32) -> None:
    """Write an untied model in float32 with what quantised weights stand for; routers and gates are not quantised."""
    import torch
    from transformers import AutoModelForCausalLM

    from mpi_spp.kernels.quantized import dequantize, quantize

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith(("_proj", "_proj.weight", "lm_head.weight")):
            matrices = parameter.data if parameter.ndim == 3 else parameter.data[None]
            kept = bits if name != "lm_head.weight" else 8
            rounded = [dequantize(quantize(matrix, kept, group)) for matrix in matrices]
            parameter.data = torch.stack(rounded).view_as(parameter)
    model.save_pretrained(directory)


def greedy(directory: Path, prompt_ids: list[int], new_tokens: int) -> tuple[list[int], float]:
    """The tokens of transformers in float32, and the smallest gap between the two best logits of a step.

    A router decides over whole experts: its gaps count, too, where they come near to rounding.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, experts_implementation="eager")
    routing = _watch_routers(model)
    output = model.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(output.logits).float().topk(2).values
    gap = min([(best[:, 0] - best[:, 1]).min().item(), *(_ROUTER_FACTOR * one for one in routing)])
    return output.sequences[0, len(prompt_ids) :].tolist(), gap


def _watch_routers(model: Any) -> list[float]:
    """Will hold the smallest gap between the last expert that is taken and the next one, of every call of a router."""
    gaps: list[float] = []

    def look(router: Any, inputs: Any, outputs: Any) -> None:
        taken = outputs[0].float().softmax(-1).topk(router.top_k + 1).values
        gaps.append((taken[:, -2] - taken[:, -1]).min().item())

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(look)
    return gaps
