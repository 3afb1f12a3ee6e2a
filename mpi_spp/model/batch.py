"""Rows of one or more sequences, laid end to end: what a stage computes in one call."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kv.cache import KVCache
from mpi_spp.parallel.partition import split_chunks


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence: the rows they take in the batch, and their place in the sequence.

    `sequence_length` is how much of the sequence is known: the whole prompt while any of its chunks is computed.
    """

    rows: range
    start: int
    cache: KVCache
    sequence_length: int

    @property
    def positions(self) -> range:
        """Of its tokens in the sequence."""
        return range(self.start, self.start + len(self.rows))

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Its own ones of the batch's rows."""
        return rows[self.rows.start : self.rows.stop]

    def angles(self, rotation: Rotation) -> Rotation:
        """The same of cosines and signed sines."""
        return self.of(rotation[0]), self.of(rotation[1])


@dataclass(frozen=True)
class Batch:
    """The spans of one forward pass, in row order."""

    spans: tuple[Span, ...]
    device: torch.device

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """The position of every row in its sequence, int64 [tokens]."""
        of_spans = [np.arange(span.start, span.positions.stop, dtype=np.int64) for span in self.spans]
        return torch.from_numpy(np.concatenate(of_spans)).to(self.device)


def in_spans(ranges: Iterable[range], cache: KVCache, sequence_length: int, longest: int) -> Batch:
    """The batch of one sequence's tokens at several ranges of positions, in spans of so many rows at most."""
    spans, row = [], 0
    for positions in ranges:
        for part in split_chunks(len(positions), longest):
            spans.append(Span(range(row, row + len(part)), positions.start + part.start, cache, sequence_length))
            row += len(part)
    return Batch(tuple(spans), cache.device)


def one_span(positions: range, cache: KVCache, sequence_length: int) -> Batch:
    """The batch of one sequence's tokens at these positions."""
    return Batch((Span(range(len(positions)), positions.start, cache, sequence_length),), cache.device)
