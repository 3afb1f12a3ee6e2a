"""Values of any kind that ranks send beside the tensors of the computation, and take when they have time."""

from __future__ import annotations  # types of MPI are named before it is loaded

import pickle
from typing import Any

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.library import MPI
from mpi_spp.comm.operation import Operation, happened, of_all, waiting
from mpi_spp.comm.requests import Idle, Transfer
from mpi_spp.comm.world import World

_NAP_SECONDS = 1e-3  # nothing here is as urgent as the core that a computing rank could have
_PIECE_BYTES = 1 << 26  # of a value that is collected: libraries count no more than 2 GiB at a time


class Mailbox:
    """Pickled values between any two ranks of the job; those of one sender arrive in order. Making one is collective.

    MPI moves nothing by itself: a rank that computes for long calls `take` or `move_on` now and then.
    """

    def __init__(self, world: World) -> None:
        with waiting(of_all("duplicate", world.mpi_comm, "mailbox")):
            self._comm = world.mpi_comm.Dup()
        self.others = tuple(rank for rank in range(world.size) if rank != world.rank)
        self._idle = Idle(shares_core=True, nap_seconds=_NAP_SECONDS)
        self._sends: list[Transfer] = []

    def post(self, value: Any, dest: int) -> None:
        """Send without waiting."""
        operation = Operation("send", "mailbox", (dest,))
        self._sends.append(Transfer(lambda: self._comm.isend(value, dest), operation, value))

    def take(self) -> tuple[int, Any] | None:
        """The next message that is here, after the rank that sent it; None when there is none."""
        self.move_on()
        status = MPI.Status()
        message = self._comm.improbe(status=status)
        if message is None:
            return None
        happened(Operation("receive", "mailbox", (status.source,)))
        return status.source, message.recv()

    def wait(self) -> tuple[int, Any]:
        """The next message, after the rank that sent it."""
        arrival = _Arrival(self)
        self._idle.wait(arrival)
        assert arrival.message is not None
        return arrival.message

    def move_on(self) -> None:
        """Move on what is being sent."""
        self._sends = [send for send in self._sends if not send.test()]

    def flush(self) -> None:
        """Return when all that was posted has been sent."""
        for send in self._sends:
            self._idle.wait(send)


class _Arrival:
    """A message that is waited for."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.operation = Operation("receive", "mailbox", mailbox.others)
        self.message: tuple[int, Any] | None = None

    def test(self) -> bool:
        self.message = self._mailbox.take()
        return self.message is not None


def share(comm: Communicator, value: Any) -> Any:
    """The (pickled) value of rank 0, on all ranks. Collective; those who wait leave a shared core to others.

    None is the shortest message, for what is shared often and seldom tells anything.
    """
    if comm.size == 1:
        return value
    content = torch.empty(0, dtype=torch.uint8) if value is None else _pickled(value)
    length = torch.tensor([len(content)])
    comm.broadcast(length, root=0)
    if not length:
        return None
    if not comm.is_first:
        content = torch.empty(int(length), dtype=torch.uint8)
    comm.broadcast(content, root=0)
    return pickle.loads(content.numpy().tobytes())


def collect(comm: Communicator, value: Any) -> list[Any]:
    """The (pickled) values of all ranks, of any size, on rank 0; none on the others. Collective."""
    if not comm.is_first:
        content = _pickled(value)
        for piece in (torch.tensor([len(content)]), *content.split(_PIECE_BYTES)):
            comm.wait(comm.isend(piece, 0))
        return []
    values = [value]
    for source in range(1, comm.size):
        length = torch.zeros(1, dtype=torch.int64)
        comm.wait(comm.irecv(length, source))
        content = torch.empty(int(length), dtype=torch.uint8)
        for piece in content.split(_PIECE_BYTES):
            comm.wait(comm.irecv(piece, source))
        values.append(pickle.loads(content.numpy().data))
    return values


def _pickled(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
