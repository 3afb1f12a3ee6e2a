"""A communicator that moves torch tensors and counts what it moves."""

from __future__ import annotations  # types of MPI are named before it is loaded

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch

from mpi_spp.comm.buffers import Direct, Staging, bytes_type, memory_of, spec_of, unit_bytes
from mpi_spp.comm.library import MPI
from mpi_spp.comm.operation import Operation, ranks_of_the_job, waiting
from mpi_spp.comm.requests import Idle, Request, Transfer
from mpi_spp.comm.shared import Hosts

_VALUE_AND_ID = np.dtype([("value", np.float32), ("id", np.int32)])  # the layout of MPI.FLOAT_INT


class Communicator:
    """The ranks of one axis. Every method moves bytes; none computes with them but `largest`.

    `bytes_sent` counts what this rank hands over times the ranks that must get it, whatever way MPI takes.
    """

    def __init__(
        self, comm: MPI.Comm, staging: Staging | None = None, shares_core: bool = False, name: str = "all ranks"
    ) -> None:
        """`name`: of the conversation, for reports."""
        self._comm, self._name = comm, name
        self.members = ranks_of_the_job(comm)
        self._staging = staging or Direct()
        self._idle = Idle(shares_core)
        self._largest_tag = comm.Get_attr(MPI.TAG_UB) or 32767  # what the standard grants at least
        self.rank, self.size = comm.rank, comm.size
        self._others = tuple(rank for rank in self.members if rank != self.members[self.rank])
        self.bytes_sent = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether this is the rank of the highest number."""
        return self.rank == self.size - 1

    @property
    def next(self) -> int:
        """The next rank round the ring."""
        return (self.rank + 1) % self.size

    @property
    def prev(self) -> int:
        """The rank before this one, round the ring."""
        return (self.rank - 1) % self.size

    def duplicate(self, name: str) -> Communicator:
        """The same ranks with a space of messages of their own, so that two conversations cannot mix. Collective."""
        with waiting(self._of_all("duplicate", 0)):
            comm = self._comm.Dup()
        copy = Communicator(comm, self._staging, name=name)
        copy._idle = self._idle
        return copy

    def alone(self) -> Communicator:
        """This rank by itself: the same methods, without a message. Needs no other rank."""
        return Communicator(MPI.COMM_SELF, self._staging, name="alone")

    def free(self) -> None:
        """Give it back, when no message of it is under way. Collective."""
        with waiting(self._of_all("free", 0)):
            self._comm.Free()

    def isend(self, tensor: torch.Tensor, dest: int, tag: int = 0) -> Request:
        """Start sending a contiguous tensor; it must not change before the request is complete."""
        buffer, nbytes = self._staging.outgoing(tensor), tensor.nbytes
        self.bytes_sent += nbytes
        operation = Operation("send", self._name, (self.members[dest],), nbytes, tag)
        return Transfer(lambda: self._comm.Isend(spec_of(buffer), dest, self._wrap(tag)), operation, buffer)

    def irecv(self, tensor: torch.Tensor, source: int, tag: int = 0) -> Request:
        """Start receiving into a contiguous tensor of exactly the size that was sent."""
        buffer, finish = self._staging.incoming(tensor, read_too=False)
        operation = Operation("receive", self._name, (self.members[source],), tensor.nbytes, tag)
        return Transfer(lambda: self._comm.Irecv(spec_of(buffer), source, self._wrap(tag)), operation, buffer, finish)

    def iallgather(self, tensor: torch.Tensor, lengths: Sequence[int]) -> Request:
        """Start filling a tensor [sum(lengths), row] whose slices belong to the ranks: each gives its own, in place.

        `lengths[r]` is the number of rows of rank r; it may be 0.
        """
        buffer, finish = self._staging.incoming(tensor, read_too=True)
        row = buffer.nbytes // max(1, buffer.shape[0])
        nbytes = lengths[self.rank] * row
        self.bytes_sent += nbytes * (self.size - 1)
        operation = self._of_all("allgather", nbytes)
        if min(lengths) == max(lengths):  # on all ranks alike; libraries know more ways for equal parts
            return Transfer(lambda: self._comm.Iallgather(MPI.IN_PLACE, spec_of(buffer)), operation, buffer, finish)
        unit = unit_bytes(buffer)
        spec = [memory_of(buffer), _counts(tuple(lengths), row // unit), bytes_type(unit)]
        return Transfer(lambda: self._comm.Iallgatherv(MPI.IN_PLACE, spec), operation, buffer, finish)

    def ialltoall(
        self, outgoing: torch.Tensor, out_lengths: Sequence[int], incoming: torch.Tensor, in_lengths: Sequence[int]
    ) -> Request:
        """Start sending each rank its slice of `outgoing` [sum(out_lengths), row], and receiving one from each.

        Slices are in rank order; `incoming` is [sum(in_lengths), row]; any slice may be empty.
        """
        ready = self._staging.outgoing(outgoing)
        buffer, finish = self._staging.incoming(incoming, read_too=False)
        unit = max(unit_bytes(ready), unit_bytes(buffer))
        row = outgoing.shape[-1] * outgoing.element_size()
        send = [memory_of(ready), _counts(tuple(out_lengths), row // unit), bytes_type(unit)]
        receive = [memory_of(buffer), _counts(tuple(in_lengths), row // unit), bytes_type(unit)]
        others = (sum(out_lengths) - out_lengths[self.rank]) * row
        self.bytes_sent += others
        operation = self._of_all("alltoall", others // max(1, self.size - 1))
        return Transfer(lambda: self._comm.Ialltoallv(send, receive), operation, (ready, buffer), finish)

    def sum_in_place(self, tensor: torch.Tensor) -> None:
        """Add up the tensors of all ranks, in place; all ranks get the same bits. float32 only.

        MPI knows no bfloat16, and mpi4py would add its bytes.
        """
        if tensor.dtype != torch.float32:
            raise TypeError(f"only float32 is summed over the ranks; got {tensor.dtype}")
        if self.size == 1:
            return
        buffer, finish = self._staging.incoming(tensor, read_too=True)
        spec = [memory_of(buffer), MPI.FLOAT]
        self.bytes_sent += 2 * tensor.nbytes * (self.size - 1) // self.size
        operation = self._of_all("sum", tensor.nbytes)
        if self._idle.spins:
            with waiting(operation):
                self._comm.Allreduce(MPI.IN_PLACE, spec)
            if finish is not None:
                finish()
        else:
            self.wait(Transfer(lambda: self._comm.Iallreduce(MPI.IN_PLACE, spec), operation, buffer, finish))

    def hosts(self, host: str) -> Hosts:
        """Its ranks by host, of which this rank's is named. Collective."""
        return Hosts(self._comm, host)

    def split(self, color: int, key: int, name: str) -> Communicator:
        """The ranks of the same color, in the order of their keys. Collective."""
        with waiting(self._of_all("split", 0)):
            comm = self._comm.Split(color, key)
        part = Communicator(comm, self._staging, name=name)
        part._idle = self._idle
        return part

    def allgather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all ranks, [size, *shape], in the order of ranks; all are of the same shape and dtype."""
        rows = tensor.new_empty((self.size, *tensor.shape))
        rows[self.rank] = tensor
        self.allgather_in_place(rows)
        return rows

    def allgather_in_place(self, rows: torch.Tensor) -> None:
        """Fill a tensor [size, ...], of which this rank has filled in its own row, with the rows of all."""
        if not self._idle.spins:
            self.wait(self.iallgather(rows, [1] * self.size))
            return
        buffer, finish = self._staging.incoming(rows, read_too=True)
        nbytes = buffer.nbytes // self.size
        self.bytes_sent += nbytes * (self.size - 1)
        with waiting(self._of_all("allgather", nbytes)):
            self._comm.Allgather(MPI.IN_PLACE, spec_of(buffer))
        if finish is not None:
            finish()

    def broadcast(self, tensor: torch.Tensor, root: int) -> None:
        """Give all ranks the root's values, in place."""
        buffer, finish = self._staging.incoming(tensor, read_too=True)
        if self.rank == root:
            self.bytes_sent += tensor.nbytes * (self.size - 1)
        operation = self._of_all("broadcast", tensor.nbytes)
        self.wait(Transfer(lambda: self._comm.Ibcast(spec_of(buffer), root), operation, buffer, finish))

    def largest(self, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """For each row the id of the largest value over all ranks; of equal values the lowest id.

        `values` float32 [rows], `ids` int64 [rows] below 2**31; returns int64 [rows] on the CPU, the same on all ranks.
        """
        mine = np.empty(len(values), _VALUE_AND_ID)
        mine["value"], mine["id"] = values.cpu().numpy(), ids.cpu().numpy()
        best = np.empty_like(mine)
        self.bytes_sent += mine.nbytes * (self.size - 1)
        buffers = [mine, MPI.FLOAT_INT], [best, MPI.FLOAT_INT]
        operation = self._of_all("largest", mine.nbytes)
        self.wait(Transfer(lambda: self._comm.Iallreduce(*buffers, MPI.MAXLOC), operation, (mine, best)))
        return torch.from_numpy(best["id"].astype(np.int64))

    def barrier(self) -> None:
        """Return when all ranks have called this."""
        self.wait(Transfer(lambda: self._comm.Ibarrier(), self._of_all("barrier", 0), None))

    def wait(self, request: Request, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when the request is complete, leaving the core to others when it is shared.

        `meanwhile` is called again and again: what other ranks wait for must move on too.
        """
        self._idle.wait(request, meanwhile)

    def _of_all(self, kind: str, nbytes: int) -> Operation:
        return Operation(kind, self._name, self._others, nbytes)

    def _wrap(self, tag: int) -> int:
        return tag % (self._largest_tag + 1)


@lru_cache(maxsize=256)
def _counts(lengths: tuple[int, ...], units: int) -> tuple[Sequence[int], Sequence[int]]:
    """Counts and offsets of slices of so many rows, in units of which a row has so many."""
    counts = [length * units for length in lengths]
    return counts, [0, *accumulate(counts[:-1])]
