"""What selection asks for scores: one rank's slice of the vocabulary. A stage is one."""

from typing import Protocol

import torch

from mpi_spp.model.config import ModelConfig


class Head(Protocol):
    """Scores of the tokens `vocabulary`, which may be none or all, for the last layer's hidden states, one a row."""

    config: ModelConfig
    vocabulary: range

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [rows, len(vocabulary)], in 16 bits or finer."""

    def rounding(self, logits: torch.Tensor) -> float:
        """Twice how far what `logits` has just given may be from exact: 0 where it is float32 throughout."""

    def exact_logits(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Float32 scores [places] of some places of the slice, for one row."""
