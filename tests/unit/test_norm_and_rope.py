"""Norms and rotations, to the bit as transformers computes them."""

import pytest
import reference_models
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from mpi_spp.kernels.norm import rms_norm
from mpi_spp.model.rope import make_rope, rotate

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROPE_RECIPES = [name for name in reference_models.RECIPES if "rope" in name or name == "llama_tied"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 72), (5, 72), (5, 3, 16)], ids=str)
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = (torch.randn(shape) * 10).to(dtype)
    reference = LlamaRMSNorm(shape[-1], eps=1e-5)
    reference.weight.data = torch.randn(shape[-1]).to(dtype)
    assert torch.equal(rms_norm(x, reference.weight.data, 1e-5), reference(x).data)


@pytest.mark.parametrize("eps", [1e-6, 1e-1])
def test_rms_norm_heeds_eps(eps: float) -> None:
    x = torch.full((1, 4), 0.3)
    expected = 0.3 / (0.09 + eps) ** 0.5
    assert rms_norm(x, torch.ones(4), eps)[0, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotate(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    queries, keys = torch.randn(7, 9, 16).to(dtype), torch.randn(7, 3, 16).to(dtype)
    angles = torch.randn(7, 8).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    expected = apply_rotary_pos_emb(*(heads.transpose(0, 1)[None] for heads in (queries, keys)), cos[None], sin[None])
    for heads, reference in zip((queries, keys), expected, strict=True):
        assert torch.equal(rotate(heads, cos, sin), reference[0].transpose(0, 1))


@pytest.mark.parametrize("start, length", [(0, 30), (90, 100), (150, 160), (300, 301)])
@pytest.mark.parametrize("name", ROPE_RECIPES)
def test_angles(name: str, start: int, length: int) -> None:
    """Below, at and beyond the positions that the model was trained for; a sequence's angles do not depend on its chunks."""
    recipe = reference_models.RECIPES[name]
    config = AutoConfig.for_model(recipe.model_type, **recipe.settings | {"hidden_size": 72, "num_attention_heads": 9})
    positions = torch.arange(length)
    expected = LlamaRotaryEmbedding(config)(torch.empty(1, dtype=torch.float32), positions[None])
    rotation = make_rope(config, 8).rotation(positions[start:], length, torch.float32)
    for ours, reference in zip(rotation, expected, strict=True):
        assert torch.equal(ours, reference[0, start:])
