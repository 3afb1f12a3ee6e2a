"""All ranks go through the layers side by side, all sequences in one batch."""

from collections.abc import Iterator, Sequence

import torch

from mpi_spp.decode._job import DecodeJob, Growing, grow


def in_step(
    job: DecodeJob, sequences: Sequence[Growing], hidden: torch.Tensor
) -> Iterator[tuple[Sequence[Growing], torch.Tensor]]:
    """Yield sequences with their next tokens [sequences]. `hidden`: of their last tokens, [sequences, hidden_size]."""
    while sequences:
        tokens = job.select(sequences, hidden)
        yield sequences, tokens
        going_on = [row for row, sequence in enumerate(sequences) if not sequence.finished]
        sequences = [sequences[row] for row in going_on]
        if sequences:
            hidden = job.forward(sequences, job.stage.embed(tokens[going_on]))
            grow(sequences)
