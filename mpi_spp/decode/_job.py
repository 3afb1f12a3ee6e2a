"""What a decode strategy is given, and the sequences that it makes longer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.life import works
from mpi_spp.kv.cache import KVCache
from mpi_spp.mesh import Place
from mpi_spp.model.batch import Batch, Span
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import Shard
from mpi_spp.report.timed import timed


@dataclass
class Growing:
    """One of several sequences: its cache, of which `length` positions are filled, and how many tokens were taken.

    Who takes them counts them, and says when it is finished. `stream` is that of its draws.
    """

    number: int
    stream: int
    cache: KVCache
    length: int
    taken: int = 0
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
        with timed("step", sequences[0].taken, sequences=len(sequences)):
            batch = Batch(tuple(spans), self.stage.device)
            hidden = self.stage.forward(hidden, batch, self.layers, self.shard)
        works()
        return hidden


def grow(sequences: Sequence[Growing]) -> None:
    """Their newest tokens are in the caches."""
    for sequence in sequences:
        sequence.length += 1
