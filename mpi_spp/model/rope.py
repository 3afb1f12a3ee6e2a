"""Rotary position embeddings (Su et al., 2021) with the context extensions of the supported families."""

import math
from dataclasses import dataclass
from typing import Any

import torch

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class DynamicScaling:
    """What dynamic NTK scaling needs to stretch the base with the length of the sequence."""

    rope_theta: float
    factor: float
    max_position_embeddings: int


@dataclass(frozen=True)
class Rope:
    """The angles of a model: `inv_freq` float32 [head_dim / 2], `attention_scaling` of cosines and sines."""

    inv_freq: torch.Tensor
    attention_scaling: float
    dynamic: DynamicScaling | None = None

    def rotation(
        self, position_ids: torch.Tensor, sequence_length: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines [tokens, head_dim] for positions [tokens] of a sequence of which so much is known.

        Computed in float32, as transformers does. Only dynamic scaling looks at `sequence_length`: every chunk of a
        prompt must be rotated by the angles of the whole prompt.
        """
        angles = position_ids[:, None].float() * self._inv_freq(sequence_length).to(position_ids.device)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)

    def is_finite(self, max_positions: int) -> bool:
        """Whether all angles are numbers, up to this length of a sequence."""
        inv_freq = torch.cat((self.inv_freq, self._inv_freq(max_positions)))
        return math.isfinite(self.attention_scaling) and bool((inv_freq * max_positions).isfinite().all())

    def _inv_freq(self, sequence_length: int) -> torch.Tensor:
        if self.dynamic is None or sequence_length <= self.dynamic.max_position_embeddings:
            return self.inv_freq
        dim = 2 * len(self.inv_freq)
        length, factor = torch.tensor(sequence_length), self.dynamic.factor
        stretch = (factor * length / self.dynamic.max_position_embeddings) - (factor - 1)
        base = self.dynamic.rope_theta * stretch ** (dim / (dim - 2))
        return default_inv_freq(base, dim)


def default_inv_freq(base: float | torch.Tensor, dim: int) -> torch.Tensor:
    """The inverse frequencies of the original paper, float32 [dim / 2]."""
    return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))


def make_rope(config: Any, head_dim: int) -> Rope:
    """The angles that a transformers configuration asks for."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        return Rope(default_inv_freq(parameters["rope_theta"], head_dim), 1.0)
    inv_freq, attention_scaling = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    dynamic = None
    if rope_type == "dynamic":
        dynamic = DynamicScaling(parameters["rope_theta"], parameters["factor"], config.max_position_embeddings)
    return Rope(inv_freq, attention_scaling, dynamic)
