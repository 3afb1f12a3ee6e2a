"""Classifier-free guidance: each token is chosen from the scores of two sequences, of which one is steered away from.

Source: Sanchez et al., 2023, "Stay on topic with Classifier-Free Guidance". As in transformers, guidance comes before
penalties, temperature, top-k and top-p. There both sequences' scores are normalised first; that adds a constant to each
row, which changes neither the best token nor any probability, so it is left out here where nothing penalises.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.model.decoder import rounding_of
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.penalties import Adjust, Shifted

if TYPE_CHECKING:
    from mpi_spp.strategies.sampling.selection import Selection


class GuidedHead:
    """unconditional + scale * (conditional - unconditional), for rows that are pairs of hidden states [2, hidden_size].

    The first of a pair is the conditional one.
    """

    def __init__(self, head: Head, scale: float) -> None:
        self._head, self._scale = head, scale
        self.config, self.vocabulary = head.config, head.vocabulary
        self._rounding = 0.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 scores [rows, len(vocabulary)] of pairs [rows, 2, hidden_size]."""
        both = self._head.logits(hidden.flatten(0, 1)).unflatten(0, (-1, 2))
        first, second = (rounding_of(both[:, place]) for place in (0, 1))
        self._rounding = abs(self._scale) * first + abs(1 - self._scale) * second
        return self._combined(both.float())

    def rounding(self, logits: torch.Tensor) -> float:
        """Of both sequences' scores, which the scale may enlarge."""
        return self._rounding

    def exact_logits(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Float32 scores [places] of one pair [1, 2, hidden_size]."""
        both = torch.stack([self._head.exact_logits(one, places) for one in hidden[0].split(1)])
        return self._combined(both[None])[0]

    def _combined(self, both: torch.Tensor) -> torch.Tensor:
        conditional, unconditional = both.unbind(1)
        return unconditional + self._scale * (conditional - unconditional)


class Guided:
    """One token for both sequences of a pair, by another selection over their combined scores.

    A single rank gives the rows of both: all conditional ones, then the unconditional ones in the same order. Of
    several ranks each half gives the rows of one sequence; they exchange hidden states, since these are much smaller
    than scores, and so every rank has its own slice of the vocabulary, whatever half it is in.
    """

    def __init__(self, selection: "Selection", scale: float) -> None:
        self._selection, self._scale = selection, scale

    def select(
        self,
        head: Head,
        hidden: torch.Tensor,
        comm: Communicator,
        sequence_indices: Sequence[int],
        steps: Sequence[int],
        adjusts: Sequence[Adjust | None] = (),
    ) -> torch.Tensor:
        """One token for each row of hidden states; see Selection. Draws are those of the conditional rows."""
        if comm.size == 1:
            pairs = hidden.unflatten(0, (2, -1)).transpose(0, 1)
        else:
            pairs = torch.stack(_of_both_halves(hidden, comm), dim=1)
        count = len(pairs)
        guided = GuidedHead(head, self._scale)
        adjusts = adjusts[:count]
        if any(adjusts):
            shifts = self._shifts(head, pairs, comm)
            adjusts = [one and Shifted(one, shift) for one, shift in zip(adjusts, shifts, strict=True)]
        tokens = self._selection.select(guided, pairs, comm, sequence_indices[:count], steps[:count], adjusts)
        return tokens.repeat(len(hidden) // count)

    def _shifts(self, head: Head, pairs: torch.Tensor, comm: Communicator) -> list[float]:
        """What makes combined scores of pairs [rows, 2, hidden_size] those of log-probabilities. Collective."""
        sums = torch.full((len(pairs), 2), -torch.inf, dtype=torch.float64)
        if len(head.vocabulary):
            both = head.logits(pairs.flatten(0, 1)).float().unflatten(0, (-1, 2))
            sums = both.logsumexp(dim=-1).double().cpu()
        conditional, unconditional = comm.allgather(sums).logsumexp(dim=0).unbind(1)
        return (-self._scale * conditional - (1 - self._scale) * unconditional).tolist()


def _of_both_halves(hidden: torch.Tensor, comm: Communicator) -> list[torch.Tensor]:
    """The rows of the first half of the ranks and those of the second, on every rank."""
    halves = split_evenly(comm.size, 2)
    mine = int(comm.rank in halves[1])
    own, other = halves[mine], halves[1 - mine]
    place, arriving = own.index(comm.rank), torch.empty_like(hidden)
    transfers = [comm.irecv(arriving, other[place % len(other)])]
    # One half may have a rank more, which takes what another of its ranks takes, too.
    transfers += [comm.isend(hidden, rank) for at, rank in enumerate(other) if at % len(own) == place]
    for transfer in transfers:
        comm.wait(transfer)
    return [arriving, hidden] if mine else [hidden, arriving]
