"""Greedy selection over a vocabulary that is split over the ranks."""

import torch

from mpi_spp.comm.communicator import Communicator

_NO_TOKEN = 2**31 - 1  # loses every tie: the id of a rank whose slice is empty


def select(logits: torch.Tensor, vocabulary: range, comm: Communicator) -> torch.Tensor:
    """The token with the largest logit in each row, the lowest id among equals; a NaN never wins.

    `logits` [rows, len(vocabulary)] of this rank's slice. Returns int64 [rows] on the CPU, the same on all ranks. One
    reduction of (float32 value, global token id).
    """
    scores = logits.float().nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
    if not len(vocabulary):
        rows = len(scores)
        return comm.largest(torch.full((rows,), float("-inf")), torch.full((rows,), _NO_TOKEN))
    values, ids = scores.max(dim=-1)
    return comm.largest(values, ids + vocabulary.start)
