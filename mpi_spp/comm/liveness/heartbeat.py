"""Signs of life: ranks that work or wait tell one another, so that a long wait can be told from one in vain."""

from __future__ import annotations  # types of MPI are named before it is loaded

import time
from collections.abc import Sequence
from typing import Any

from mpi_spp.comm.library import MPI
from mpi_spp.comm.liveness.gossip import Hearsay, listeners
from mpi_spp.comm.operation import Operation, here

_INTERVAL_SECONDS = 0.5


class Life:
    """What this rank waits for, and what it has heard of the others. Making one is collective.

    Only one thread may speak MPI, and not while MPI itself waits: so a rank talks between two layers or tokens that it
    computes, and in the waits of `requests.Idle`. It tells a few others what it has heard of all. Two counts show that
    the job goes on: `completed_here`, of operations of this rank, and `worked_elsewhere`, of words of others that they
    work.
    """

    def __init__(self, comm: MPI.Intracomm, host: str) -> None:
        self._comm = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.hosts: Sequence[str] = comm.allgather(host)
        self.worked_elsewhere = 0
        self._hearsay = Hearsay(self.rank, self.size)
        self.heard = self._hearsay.heard
        self.listened_at = self._talks_at = time.monotonic()
        self._sends: dict[int, tuple[MPI.Request, Any]] = {}

    @property
    def waits_for(self) -> Operation | None:
        """What this rank waits for, if it does."""
        return next(iter(here.waits[-1:]), None)  # another thread may ask

    @property
    def completed_here(self) -> int:
        """Operations of this rank that are complete."""
        return here.completed

    def idles(self, operation: Operation) -> None:
        """This rank still waits, by now for this operation; called a few times a second."""
        here.waits[-1:] = [operation]
        self._talk(works=False)

    def works(self) -> None:
        """This rank has done a part of its own work; called as often as one likes."""
        self._talk(works=True)

    def _talk(self, works: bool) -> None:
        now = time.monotonic()
        if now < self._talks_at:
            return
        self._talks_at = now + _INTERVAL_SECONDS
        self._listen(now)
        words = self._hearsay.tell(works)
        for other in listeners(self.rank, self.size):
            last = self._sends.get(other)
            if last is None or last[0].Test():  # who takes nothing gets nothing more
                self._sends[other] = self._comm.Isend(words, other), words

    def _listen(self, now: float) -> None:
        status = MPI.Status()
        while self._comm.Iprobe(status=status):
            words = self._hearsay.blank()
            self._comm.Recv(words, status.source)
            self.worked_elsewhere += self._hearsay.hear(words, now)
        self.listened_at = now


lives: list[Life] = []  # that of this rank, where there are others


def works() -> None:
    """Tell the others that this rank has done a part of its own work: a layer, a token. Costs next to nothing."""
    for life in lives:
        life.works()


def idles(operation: Operation) -> None:
    """Tell the others that this rank waits, for this operation."""
    for life in lives:
        life.idles(operation)
