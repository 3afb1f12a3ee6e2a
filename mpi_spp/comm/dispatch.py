"""Rows to the ranks that have their experts, and back: for ranks that hold different rows (Lepikhin et al., 2020).

Nothing is dropped, and no rank has a capacity: it may get all rows, or none.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from mpi_spp.comm.communicator import Communicator

# Outputs of a rank's experts, float32 [rows, hidden_size], for rows of x, their experts and the weights of those.
Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def rows_for(experts: torch.Tensor, owned: range) -> torch.Tensor:
    """The rows, int64 and ascending, of which one of the experts [rows, top_k] is among the owned ones."""
    return ((experts >= owned.start) & (experts < owned.stop)).any(dim=1).nonzero()[:, 0]


class Dispatch:
    """Sends a row to each rank that has one of its experts, once, and adds up what those ranks make of it."""

    gives_all = False

    def __init__(self, comm: Communicator, owners: Sequence[range], shares: Sequence[int]) -> None:
        """`owners`: the experts of each rank, all together once; `shares`: of a layer, whose experts this rank has."""
        self._comm, self._owners, self.shares = comm, owners, shares

    def takes(self, rows: int) -> bool:
        """Always: there is no other way."""
        return True

    def __call__(self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Sums over the experts of x [rows, hidden_size], float32 of the same shape. Collective.

        `experts` int64 and `weights` float32 [rows, top_k]. `compute` is called once, with the rows of all ranks that
        need one of this rank's experts; of other experts it must make nothing.
        """
        chosen = [rows_for(experts, owned) for owned in self._owners]
        rows, there = torch.cat(chosen), [len(part) for part in chosen]
        here = self._lengths(there, x.device)
        routing = torch.cat((experts[rows].float(), weights[rows]), dim=1)  # ids below 2**24 are exact
        their_x, their_routing = self._exchange([x[rows], routing], there, here)
        ids, their_weights = their_routing.chunk(2, dim=1)
        outputs = compute(their_x, ids.long(), their_weights.contiguous())
        (back,) = self._exchange([outputs], here, there)
        return torch.zeros(x.shape, dtype=torch.float32, device=x.device).index_add_(0, rows, back)

    def _lengths(self, there: list[int], device: torch.device) -> list[int]:
        """How many rows each rank sends here."""
        ones, counts = [1] * len(there), torch.tensor(there, device=device)[:, None]
        (received,) = self._exchange([counts], ones, ones)
        lengths: list[int] = received[:, 0].tolist()
        return lengths

    def _exchange(self, tensors: list[torch.Tensor], there: Sequence[int], here: Sequence[int]) -> list[torch.Tensor]:
        """Each rank gets its slice of every tensor; all of them are under way at the same time."""
        received = [tensor.new_empty((sum(here), tensor.shape[1])) for tensor in tensors]
        requests = [
            self._comm.ialltoall(tensor, there, incoming, here)
            for tensor, incoming in zip(tensors, received, strict=True)
        ]
        for request in requests:
            self._comm.wait(request)
        return received


class DispatchOfParts:
    """For rows that all ranks have: each rank dispatches a part of them, and all get the sums of all."""

    gives_all = True

    def __init__(
        self, comm: Communicator, owners: Sequence[range], shares: Sequence[int], takes: Callable[[int], bool]
    ) -> None:
        """`takes`: whether this is the way for so many rows; the rest as for Dispatch."""
        self._comm, self._dispatch, self.shares, self.takes = comm, Dispatch(comm, owners, shares), shares, takes

    def __call__(self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, compute: Compute) -> torch.Tensor:
        """As Dispatch has it; x is the same on all ranks, and so are the sums."""
        size, rank = self._comm.size, self._comm.rank
        edges = [len(x) * part // size for part in range(size + 1)]
        lengths, part = [stop - start for start, stop in pairwise(edges)], slice(edges[rank], edges[rank + 1])
        sums = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        sums[part] = self._dispatch(x[part], experts[part], weights[part], compute)
        self._comm.wait(self._comm.iallgather(sums, lengths))
        return sums
