"""All ranks go through the layers side by side, all sequences in one batch."""

from collections.abc import Sequence

import torch

from mpi_spp.strategies.decode._job import DecodeJob, Selected, SequenceState, grow, no_tokens


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

    def drop_finished(self) -> None:
        """See Decoding."""
        self._newest = [one for one in self._newest if not one[0].finished]

    def step(self) -> Selected:
        """See Decoding."""
        self.drop_finished()
        if not self._newest:
            return [], no_tokens()
        sequences, newest = zip(*self._newest, strict=True)
        self._newest = []
        hidden = self._job.forward(sequences, self._job.stage.embed(torch.cat(newest)))
        grow(sequences)
        return self.admit(sequences, hidden)
