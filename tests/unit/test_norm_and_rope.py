"""Norms and rotations against their definitions and transformers."""

import pytest
import reference_models
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from mpi_spp.kernels.attention import rotate
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.model.rope import make_rope

# Relative to the largest value; of a dtype's own precision: 2^-24, 2^-9 and 2^-12 for one rounding.
PRECISION = {torch.float32: 2.0**-21, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
ROPE_RECIPES = [name for name in reference_models.RECIPES if "rope" in name or name == "llama_tied"]
HEAD_DIM = 8


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("shape", [(1, 72), (5, 72), (1, 3, 16), (5, 3, 16), (1, 1, 16)], ids=str)
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, size: float) -> None:
    """One row and many take different ways; each element is right to the precision of its dtype."""
    torch.manual_seed(1)
    x, weight = (torch.randn(shape) * size).to(dtype), torch.randn(shape[-1]).to(dtype)
    wide = x.double()
    expected = weight.double() * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    output = RMSNorm(weight, 1e-5)(x)
    assert output.dtype == dtype
    assert ((output.double() - expected).abs() <= PRECISION[dtype] * expected.abs()).all()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("eps", [1e-6, 1e-1])
def test_rms_norm_heeds_eps(eps: float, rows: int) -> None:
    output = RMSNorm(torch.ones(4), eps)(torch.full((rows, 4), 0.3))
    assert output[-1, 0].item() == pytest.approx(0.3 / (0.09 + eps) ** 0.5)


def test_rms_norm_keeps_the_mean() -> None:
    """It is no layer normalisation: equal values stay."""
    assert RMSNorm(torch.ones(4), 0.0)(torch.full((1, 4), 5.0)).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("start, length", [(0, 30), (90, 100), (150, 160), (300, 301)])
@pytest.mark.parametrize("name", ROPE_RECIPES)
def test_rotation(name: str, start: int, length: int, dtype: torch.dtype) -> None:
    """Below, at and beyond the positions that the model was trained for; angles do not depend on the chunk."""
    recipe = reference_models.RECIPES[name]
    config = AutoConfig.for_model(recipe.model_type, **recipe.settings | {"hidden_size": 72, "num_attention_heads": 9})
    torch.manual_seed(1)
    heads, positions = torch.randn(length, 3, HEAD_DIM).to(dtype), torch.arange(length)
    angles = LlamaRotaryEmbedding(config)(torch.empty(1, dtype=torch.float32), positions[None])
    transposed = heads.float().transpose(0, 1)[None]
    expected = apply_rotary_pos_emb(transposed, transposed, *angles)[0][0].transpose(0, 1)[start:]
    output = rotate(heads[start:], *make_rope(config, HEAD_DIM).rotation(positions[start:], length, dtype))
    assert output.dtype == dtype
    assert (output.float() - expected).abs().max() <= PRECISION[dtype] * expected.abs().max()
