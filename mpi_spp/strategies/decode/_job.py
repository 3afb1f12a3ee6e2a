"""What a decode strategy is given, and the sequences that it makes longer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import Batch, Span
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.mesh import Place
from mpi_spp.request import Request
from mpi_spp.strategies.sampling.penalties import Seen
from mpi_spp.system.timed import timed


@dataclass(eq=False)
class SequenceState:
    """A request under way: its cache, of which `length` positions are filled, and how many tokens were taken.

    `seen`: what its penalties count, if it has any.
    """

    number: int
    request: Request
    cache: KVCache
    seen: Seen | None
    length: int = field(init=False)
    taken: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.length = len(self.request.prompt_ids)

    def take(self, token: int) -> None:
        """Count its next token, which may be the last one."""
        self.taken += 1
        if self.seen is not None:
            self.seen.add(token)
        self.finished = self.request.ends_with(token, self.taken)


Selected = tuple[Sequence[SequenceState], torch.Tensor]  # sequences, and the next token of each: int64 [sequences]


class Decoding(Protocol):
    """The sequences of a decode, of which any may come or be finished between two steps. All ranks call it alike."""

    def admit(self, sequences: Sequence[SequenceState], hidden: torch.Tensor) -> Selected:
        """Let sequences join after their prefills; `hidden` [sequences, hidden_size]: of their prompts' last tokens."""

    def drop_finished(self) -> None:
        """Let go of those that are finished, and of their caches."""

    def step(self) -> Selected:
        """The next tokens of some or all that are not finished; of none when there is none."""


@dataclass(frozen=True)
class DecodeJob:
    """Which part of the model this rank computes. `select`: tokens [rows], on all ranks, for rows of hidden states."""

    stage: Stage
    comm: Communicator
    place: Place
    layers: range
    shard: Shard
    select: Callable[[Sequence[SequenceState], torch.Tensor], torch.Tensor]

    def forward(self, sequences: Sequence[SequenceState], hidden: torch.Tensor) -> torch.Tensor:
        """Run this rank's layers on the newest token of each sequence, [sequences, hidden_size], in place."""
        spans = (Span(range(row, row + 1), one.length, one.cache, one.length + 1) for row, one in enumerate(sequences))
        with timed("step", sequences[0].taken, sequences=len(sequences)):
            batch = Batch(tuple(spans), self.stage.device)
            hidden = self.stage.forward(hidden, batch, self.layers, self.shard)
        works()
        return hidden


def no_tokens() -> torch.Tensor:
    """Those of no sequence."""
    return torch.empty(0, dtype=torch.int64)


def grow(sequences: Sequence[SequenceState]) -> None:
    """Their newest tokens are in the caches."""
    for sequence in sequences:
        sequence.length += 1
