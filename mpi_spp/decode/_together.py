"""All ranks go through the layers side by side, all sequences in one batch."""

from collections.abc import Sequence

import torch

from mpi_spp.decode._job import DecodeJob, Selected, SequenceState, grow, no_tokens


class Together:
    """See Decoding."""

    def __init__(self, job: DecodeJob) -> None:
        self._job = job
        self._newest: list[tuple[SequenceState, torch.Tensor]] = []  # each sequence with its newest token, [1]

    def admit(self, sequences: Sequence[SequenceState], hidden: torch.Tensor) -> Selected:
        """See Decoding."""
        tokens = self._job.select(sequences, hidden)
        self._newest += zip(sequences, tokens.split(1), strict=True)
        return sequences, tokens

    def step(self) -> Selected:
        """See Decoding."""
        going_on = [one for one in self._newest if not one[0].finished]
        self._newest = []
        if not going_on:
            return [], no_tokens()
        sequences, newest = zip(*going_on, strict=True)
        hidden = self._job.forward(sequences, self._job.stage.embed(torch.cat(newest)))
        grow(sequences)
        return self.admit(sequences, hidden)
