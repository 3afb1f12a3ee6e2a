"""What a stage is given to attend with, where other ranks have computed the other tokens of its batches."""

from collections.abc import Sequence
from typing import Protocol

import torch

from mpi_spp.parallel.shares import Share


class HeadsExchange(Protocol):
    """How ranks that hold whole layers and a part of the tokens each bring their heads together for the attention.

    `heads` are those that this one attends with, for all tokens of a batch; none where there are more ranks than heads.
    """

    heads: Share

    def rows(self, num_tokens: int) -> range:
        """Which of so many tokens are computed here; it may be none."""

    def to_heads(self, products: Sequence[torch.Tensor], num_tokens: int) -> torch.Tensor:
        """Queries, keys and values [num_tokens, own heads * head_dim] of all tokens.

        `products`: those of the shares that have heads, [own tokens, heads * head_dim], in this order.
        """

    def to_tokens(self, outputs: torch.Tensor) -> list[torch.Tensor]:
        """Attention outputs [own tokens, query heads * head_dim] for each share that has heads, of all ranks' heads.

        `outputs`: of this one's heads for all tokens, [num_tokens, own query heads * head_dim].
        """

    def last(self, hidden: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """The hidden state [1, hidden_size] of the last of so many tokens, from whoever has it."""
