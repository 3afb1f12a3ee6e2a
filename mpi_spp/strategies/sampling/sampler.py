"""Draws from the distribution that temperature, top-k and top-p make of the logits, over slices of the vocabulary."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.noise import Ids, gumbel, stream_key
from mpi_spp.strategies.sampling.penalties import Adjust
from mpi_spp.strategies.sampling.shard import Places, Scores, Shard, marked
from mpi_spp.strategies.sampling.truncation import last_of_top_k, last_of_top_p


class Sampler:
    """The draw of a sequence's step depends on seed, sequence index, step and logits, not on rows or slices.

    `temperature` above 0; `top_k` 0 and `top_p` 1 leave all tokens; `seed` from 0 up, below 2**64.
    """

    def __init__(self, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        self._temperature, self._top_k, self._top_p, self._seed = temperature, top_k, top_p, seed

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
        shard = Shard(head, hidden, adjusts)
        values, ids = [], []
        places = self._places_left(shard, comm)
        for row, numbers in enumerate(zip(sequence_indices, steps, strict=True)):
            score = partial(self._with_noise, stream_key(self._seed, *numbers))
            value, token_id = shard.winner(row, places[row], score, scale=1 / max(1.0, self._temperature))
            values.append(value)
            ids.append(token_id)
        return comm.largest(*marked(torch.tensor(values), torch.tensor(ids)))

    def _places_left(self, shard: Shard, comm: Communicator) -> list[Places]:
        """For each row the places of this rank's slice that top-k and top-p leave."""
        if 0 < self._top_k < shard.vocab_size:
            lasts = last_of_top_k(shard, comm, self._temperature, self._top_k, self._top_p)
        elif self._top_p < 1:
            lasts = last_of_top_p(shard, comm, self._temperature, self._top_p)
        else:
            return [np.arange(len(shard.ids))] * len(shard.logits)
        return [shard.up_to(row, *last) for row, last in enumerate(lasts)]

    def _with_noise(self, key: int, logits: Scores, ids: Ids) -> Scores:
        """logits / temperature + noise, times min(1, temperature) so that no temperature makes it overflow.

        Summed in float64 and rounded once to what travels: ties are then the same within a slice and between slices.
        """
        temperature = self._temperature
        scores = logits.astype(np.float64) / max(1.0, temperature) + min(1.0, temperature) * gumbel(key, ids)
        return scores.astype(np.float32)
