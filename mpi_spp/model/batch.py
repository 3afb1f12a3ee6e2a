"""Rows of one or more sequences, laid end to end: what a stage computes in one call."""

from dataclasses import dataclass
from functools import cached_property

import torch

from mpi_spp.kv.cache import KVCache


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence: the rows they take in the batch, and their place in the sequence.

    `sequence_length` is how much of the sequence is known: the whole prompt while any of its chunks is computed.
    """

    rows: range
    start: int
    cache: KVCache
    sequence_length: int


@dataclass(frozen=True)
class Batch:
    """The spans of one forward pass, in row order."""

    spans: tuple[Span, ...]
    device: torch.device

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """The position of every row in its sequence, int64 [tokens]."""
        return torch.cat(
            [torch.arange(span.start, span.start + len(span.rows), device=self.device) for span in self.spans]
        )


def one_span(positions: range, cache: KVCache, sequence_length: int) -> Batch:
    """The batch of one sequence's tokens at these positions."""
    return Batch((Span(range(len(positions)), positions.start, cache, sequence_length),), cache.device)
