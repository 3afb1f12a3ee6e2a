"""The operations of one layer, and the calls that run several at once where a back end has them."""

from dataclasses import dataclass
from typing import Protocol

import torch

from mpi_spp.kernels.attention import Attention, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.linear import Gated, Linear
from mpi_spp.kernels.norm import RMSNorm


class FusedLayer(Protocol):
    """A layer for the rows of one sequence: hidden states [tokens, hidden_size] in place, the rest as Attention has it.

    Without `keep` a half's outputs take the place of the hidden states: another rank adds its own to them.
    """

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> None:
        """All of it."""

    def attend(
        self, hidden: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None, keep: bool
    ) -> None:
        """The half with the attention."""

    def transform(self, hidden: torch.Tensor, keep: bool) -> None:
        """The half with the MLP."""


@dataclass
class HeadsPart:
    """The attention of a share of a layer: its query heads, over these key/value heads of the model."""

    qkv: Linear
    attention: Attention
    output: Linear
    kv_heads: range

    @property
    def nbytes(self) -> int:
        """Of the products' weights."""
        return self.qkv.nbytes + self.output.nbytes


@dataclass
class MLPPart:
    """The MLP of a share of a layer: some of its columns."""

    gate_up: Gated
    down: Linear

    @property
    def nbytes(self) -> int:
        """Of the products' weights."""
        return self.gate_up.nbytes + self.down.nbytes


@dataclass
class Layer:
    """What a share of a layer does, in this order; products with the same input are one. A share may lack a part."""

    input_norm: RMSNorm
    heads: HeadsPart | None
    mlp_norm: RMSNorm
    mlp: MLPPart | None
    fused: FusedLayer | None = None

    @property
    def nbytes(self) -> int:
        """Of the products' weights, which are all but a thousandth."""
        return sum(part.nbytes for part in (self.heads, self.mlp) if part is not None)
