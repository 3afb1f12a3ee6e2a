"""Memory that the ranks of one host have in common."""

from __future__ import annotations  # types of MPI are named before it is loaded

import functools
import math
import os
import zlib
from collections.abc import Sequence
from typing import cast

import torch

from mpi_spp.comm.deferred_free import Leases
from mpi_spp.comm.library import MPI
from mpi_spp.comm.operation import of_all, waiting
from mpi_spp.errors import UserError

_PLACE = "/dev/shm"  # where Linux keeps what processes share; MPI libraries take it from there
_NAME = "shared memory"


class Hosts:
    """The ranks of a communicator by the host that they are on. Making one is collective."""

    def __init__(self, comm: MPI.Comm, host: str) -> None:
        """`host`: the name of this rank's host; ranks of one machine may be told apart by it."""
        self._comm, self._host = comm, host
        with waiting(of_all("split by host", comm, _NAME)):
            together = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
            self.local = together.Split(zlib.crc32(host.encode()) & 0x7FFFFFFF)
            together.Free()
            first = self.local.bcast(comm.rank, root=0)
            self.first_of: Sequence[int] = comm.allgather(first)  # by rank: the first rank of its host

    def free(self) -> None:
        """Give its communicator back. Collective over the host's ranks."""
        with waiting(of_all("free", self.local, _NAME)):
            self.local.Free()

    def memory(self, nbytes: int, option: str) -> SharedMemory:
        """So many bytes, the same on all ranks of this host. Collective.

        Raises UserError, naming the option, on all ranks where a host has no room: more than there is would end in a
        bus error.
        """
        free = _free()
        short = None
        if self.local.rank == 0 and free < nbytes:
            short = f"{_PLACE} on {self._host} has {free / 1e6:.0f} MB free"
        with waiting(of_all("gather", self._comm, _NAME)):
            refusals = self._comm.allgather(short)
        found = next((one for one in refusals if one is not None), None)
        if found is not None:
            raise UserError(
                f"{option} needs {nbytes / 1e6:.0f} MB of shared memory, but {found};"
                " enlarge it (mount -o remount,size=...), or choose another strategy",
                agreed=True,
            )
        return SharedMemory(self.local, nbytes)


class SharedMemory:
    """An MPI window that every rank of a host sees as a tensor of bytes."""

    def __init__(self, local: MPI.Comm, nbytes: int) -> None:
        self._local = cast(MPI.Intracomm, local)
        with waiting(of_all("allocate", local, _NAME)):
            self._window = MPI.Win.Allocate_shared(nbytes if local.rank == 0 else 0, 1, comm=self._local)
        memory, _ = self._window.Shared_query(0)
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8, count=nbytes)

    def free(self) -> None:
        """Give it back; no tensor in it may be used any more. Collective over the host's ranks."""
        self.bytes = torch.empty(0, dtype=torch.uint8)
        with waiting(of_all("free", self._local, _NAME)):
            self._window.Free()


class SharedTensors:
    """Makes tensors in shared memory, as `torch.empty` does elsewhere; every call is collective."""

    def __init__(self, hosts: Hosts, option: str, leases: Leases) -> None:
        """Takes the hosts' communicator over, to be given back with the memory. `leases`: of the job."""
        self._hosts, self._option = hosts, option
        self._made: list[SharedMemory] = []
        leases.add(self, [functools.partial(_free_all, self._made), hosts.free])

    def __call__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
        """An uninitialised tensor on the CPU, the same for all ranks of this host."""
        nbytes = max(1, math.prod(shape) * dtype.itemsize)
        memory = self._hosts.memory(nbytes, self._option)
        self._made.append(memory)
        return memory.bytes[: math.prod(shape) * dtype.itemsize].view(dtype).view(*shape)

    def free(self) -> None:
        """Give all of them back. Collective over the host's ranks."""
        _free_all(self._made)


def _free_all(memories: list[SharedMemory]) -> None:
    while memories:
        memories.pop().free()


def _free() -> int:
    try:
        found = os.statvfs(_PLACE)
    except OSError:  # not Linux
        return 1 << 62
    return found.f_bavail * found.f_frsize
