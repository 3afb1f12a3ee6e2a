"""What of every layer is computed here, and what a stage is given to reach the rest with. Knows no ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mpi_spp.kernels.attention import Attention, Rotation
from mpi_spp.model.batch import Batch
from mpi_spp.model.exchange import HeadsExchange
from mpi_spp.model.experts import Dispatch


class Total(Protocol):
    """How the ranks that share a stage add up what each of them has computed."""

    keeps: (
        bool  # whether this one adds to the hidden states; exactly one of them does, the others bring their part only
    )

    def __call__(self, hidden: torch.Tensor) -> None:
        """Replace [tokens, hidden_size] by the sum over all of them, in place."""


class Attend(Protocol):
    """Attention of some heads of a layer where other ranks hold some of the positions that its tokens see."""

    def __call__(
        self,
        layer: int,
        attention: Attention,
        kv_heads: range,
        qkv: torch.Tensor,
        batch: Batch,
        rotation: Rotation,
        window: int | None,
    ) -> torch.Tensor:
        """Outputs [tokens, query heads * head_dim] for `qkv`; keys and values go into the spans' caches."""


@dataclass(frozen=True)
class Shard:
    """What is computed here of every layer: some of its shares, and how the rest comes to them; None: here is all.

    `dispatch`: how rows reach experts on other ranks; None: all ranks that add up have the same rows.
    With `exchange` these are whole layers, for a part of each batch's tokens.
    `attend`: where the caches hold a part of the positions only.
    """

    shares: Sequence[int] = (0,)
    total: Total | None = None
    dispatch: Dispatch | None = None
    exchange: HeadsExchange | None = None
    attend: Attend | None = None


ALL = Shard()
