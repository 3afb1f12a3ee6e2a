"""What of every layer is computed here, and what a stage is given to reach the rest with. Knows no ranks."""

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Attending:
    """Some heads of a layer, and the queries, keys and values [tokens, heads * head_dim] of a batch's rows for them.

    `window`: the positions that a token sees up to its own; None: all.
    """

    layer: int
    attention: Attention
    kv_heads: range
    qkv: torch.Tensor
    batch: Batch
    rotation: Rotation
    window: int | None


# Outputs [tokens, query heads * head_dim]; keys and values go into the spans' caches.
Attend = Callable[[Attending], torch.Tensor]


@dataclass(frozen=True)
class Shard:
    """What is computed here of every layer: some of its shares, and how the rest comes to them; None: here is all.

    `dispatch`: how rows reach experts on other ranks; None: all ranks that add up have the same rows.
    With `exchange` these are whole layers, for a part of each batch's tokens.
    `attend`: where other ranks hold some of the positions that its tokens see; None: over the whole of each cache.
    """

    shares: Sequence[int] = (0,)
    total: Total | None = None
    dispatch: Dispatch | None = None
    exchange: HeadsExchange | None = None
    attend: Attend | None = None


ALL = Shard()
