"""How the ranks that share a stage add up what each has computed."""

import torch

from mpi_spp.comm.communicator import Communicator


class SumOverRanks:
    """One all-reduce in float32, in place. The first rank keeps the hidden states, the others bring their part."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self.keeps = comm.is_first

    def __call__(self, hidden: torch.Tensor) -> None:
        """Replace [tokens, hidden_size] by the sum over the ranks."""
        self._comm.sum_in_place(hidden)
