"""Greedy selection over a vocabulary that is split over the ranks."""

from collections.abc import Sequence

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.penalties import Adjust
from mpi_spp.strategies.sampling.shard import NO_TOKEN, marked

_ROWS = 32  # of which scores are in memory at once; for them the slice's weights are read once


class Greedy:
    """The likeliest token, whatever the sequence and the step: see `select`."""

    def select(
        self,
        head: Head,
        hidden: torch.Tensor,
        comm: Communicator,
        sequence_indices: Sequence[int],
        steps: Sequence[int],
        adjusts: Sequence[Adjust | None] = (),
    ) -> torch.Tensor:
        """One token for each row of hidden states; see Selection."""
        return select(head, hidden, comm, adjusts)


def select(head: Head, hidden: torch.Tensor, comm: Communicator, adjusts: Sequence[Adjust | None] = ()) -> torch.Tensor:
    """The token with the largest logit for each row of hidden states, the lowest id among equals.

    `hidden` [rows, hidden_size]. Returns int64 [rows] on the CPU, the same on all ranks; NOT_FINITE where one is NaN
    or +inf. One reduction of (float32 value, global token id). Each rank looks only at its own slice of the vocabulary.
    `adjusts` [rows], or none at all.
    """
    if not len(head.vocabulary):
        rows = len(hidden)
        return comm.largest(torch.full((rows,), float("-inf")), torch.full((rows,), NO_TOKEN))
    logits = (row for some in hidden.split(_ROWS) for row in head.logits(some).split(1))
    given = zip(hidden.split(1), logits, adjusts or [None] * len(hidden), strict=True)
    values, ids = zip(*(_best(head, *row) for row in given), strict=True)
    return comm.largest(*marked(torch.stack(values), torch.stack(ids)))


def best_of_slice(head: Head, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest float32 logit of this rank's slice for one hidden state [1, hidden_size], and its global token id."""
    return _best(head, hidden, head.logits(hidden), None)


def _best(
    head: Head, hidden: torch.Tensor, logits: torch.Tensor, adjust: Adjust | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of logits [1, len(vocabulary)].

    Logits of 16 bits tie often (at 25 their steps are 1/8 in bfloat16), and then the lowest id would win. So whatever
    comes within the rounding of the best is computed again in float32; the best too, since other ranks compare with it.
    A NaN is the largest of all.
    """
    rounding, logits = head.rounding(logits), logits[0]
    if adjust is not None:
        rounding, logits = rounding * adjust.stretch, adjust(logits.float())
    value, index = logits.max(dim=0)
    if rounding and value.isfinite():
        candidates = (logits >= value - rounding).nonzero()[:, 0]
        exact = head.exact_logits(hidden, candidates)
        value, place = (exact if adjust is None else adjust(exact, candidates)).max(dim=0)
        index = candidates[place]
    return value.float(), index + head.vocabulary.start
