"""What a decode strategy is given, and the sequences that it makes longer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kv.cache import KVCache
from mpi_spp.mesh import Place
from mpi_spp.model.batch import Batch, Span
from mpi_spp.model.decoder import Shard, Stage


@dataclass
class Growing:
    """A sequence: its cache, of which `length` positions are filled. Who takes its tokens says when it is finished."""

    cache: KVCache
    length: int
    finished: bool = False


@dataclass(frozen=True)
class DecodeJob:
    """Which part of the model this rank computes. `select`: tokens [rows], on all ranks, for rows of hidden states."""

    stage: Stage
    comm: Communicator
    place: Place
    layers: range
    shard: Shard
    select: Callable[[Sequence[Growing], torch.Tensor], torch.Tensor]

    def forward(self, sequences: Sequence[Growing], hidden: torch.Tensor) -> torch.Tensor:
        """Run this rank's layers on the newest token of each sequence, [sequences, hidden_size], in place."""
        spans = (Span(range(row, row + 1), one.length, one.cache, one.length + 1) for row, one in enumerate(sequences))
        batch = Batch(tuple(spans), self.stage.device)
        return self.stage.forward(hidden, batch, self.layers, self.shard)


def grow(sequences: Sequence[Growing]) -> None:
    """Their newest tokens are in the caches."""
    for sequence in sequences:
        sequence.length += 1


def unfinished(sequences: Sequence[Growing]) -> list[Growing]:
    """Those that need more tokens."""
    return [sequence for sequence in sequences if not sequence.finished]
