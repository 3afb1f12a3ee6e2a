"""The operations of one layer, and the calls that run several at once where a back end has them."""

from __future__ import annotations  # experts are made of MLPs

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch

from mpi_spp.kernels.attention import Attention, Rotation
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.linear import Gated, Linear
from mpi_spp.kernels.norm import QKVNorm, RMSNorm

if TYPE_CHECKING:
    from mpi_spp.kernels.experts import ExpertsPart, Router


class FusedSpan(NamedTuple):
    """Consecutive rows of one sequence: how many, the position of the first, and what `FusedLayers.places` gave."""

    rows: int
    start: int
    places: Any


class FusedLayers(Protocol):
    """Layers one after the other, for the rows of any number of spans: hidden states [tokens, hidden_size] in place.

    Without `keep` a half's outputs take the place of the hidden states: another rank adds its own to them.
    """

    def followed_by(self, others: Sequence[Self]) -> Self | None:
        """These and others in one call; None where there is no such call."""

    def places(self, caches: Sequence[LayerCache]) -> Any:
        """Where each of the layers keeps one sequence, as calls want to know it; good for as long as the caches are."""

    def __call__(self, hidden: torch.Tensor, rotation: Rotation, spans: Sequence[FusedSpan]) -> None:
        """All of them."""

    def attend(self, hidden: torch.Tensor, rotation: Rotation, spans: Sequence[FusedSpan], keep: bool) -> None:
        """The half with the attention, of a single layer."""

    def transform(self, hidden: torch.Tensor, keep: bool) -> None:
        """The half with the MLP, of a single layer."""


@dataclass
class HeadsPart:
    """The attention of a share of a layer: its query heads, over these key/value heads of the model."""

    qkv: Linear
    attention: Attention
    output: Linear
    kv_heads: range
    norm: QKVNorm | None = None  # over all heads of the model, before the attention

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

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [rows, hidden_size] for x of the same shape; float32 unless the back end has rounded them."""
        return self.down.to_float32(self.gate_up(x))


@dataclass
class Layer:
    """What a share of a layer does, in this order; products with the same input are one. A share may lack a part.

    Norms and the router are the same in all shares of a layer. A layer with a router has experts and no MLP.
    """

    input_norm: RMSNorm
    heads: HeadsPart | None
    mlp_norm: RMSNorm
    mlp: MLPPart | None
    router: Router | None = None
    experts: ExpertsPart | None = None
    window: int | None = None  # the positions that a token sees; None: all
    fused: FusedLayers | None = None  # of a layer with a router: its attention alone

    @property
    def nbytes(self) -> int:
        """Of the products' weights, which are all but a thousandth."""
        return sum(part.nbytes for part in (self.heads, self.mlp, self.experts) if part is not None)
