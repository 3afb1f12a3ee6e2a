"""What a rank does with others: named, so that whoever looks on can say which operation waits for whom."""

from __future__ import annotations  # types of MPI are named before it is loaded

from typing import NamedTuple, Protocol

from mpi_spp.comm.library import MPI

AT_REST = "rest"  # the kind of a wait that lasts until somebody outside wants something


class Operation(NamedTuple):
    """A message or a collective call. Ranks are those of the job.

    `comm` is the name of the conversation and `others` are the ranks that must take part too; `nbytes`, what a sender
    hands to each receiver.
    """

    kind: str
    comm: str
    others: tuple[int, ...]
    nbytes: int = 0
    tag: int = 0


def ranks_of_the_job(comm: MPI.Comm) -> list[int]:
    """The number in the job of every rank of a communicator."""
    group, job = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    return group.Translate_ranks(None, job)


def of_all(kind: str, comm: MPI.Comm, name: str) -> Operation:
    """A collective call of a communicator, in the conversation of this name."""
    members = ranks_of_the_job(comm)
    return Operation(kind, name, tuple(rank for rank in members if rank != members[comm.rank]))


class Observer(Protocol):
    """Someone who looks on at the operations of this rank. Each call is on the way of a message: be short."""

    def started(self, operation: Operation) -> None:
        """It begins: MPI is about to be told."""

    def completed(self, operation: Operation) -> None:
        """It is complete, as this rank has just found out."""

    def waits(self, operation: Operation) -> None:
        """This rank has nothing to do until the operation is complete."""

    def goes_on(self) -> None:
        """This rank waits no longer."""


observers: list[Observer] = []


class Here:
    """What this rank is at. Kept on the way of every message, so by plain assignments and not by an observer."""

    __slots__ = ("completed", "waits")

    def __init__(self) -> None:
        self.waits: list[Operation] = []  # what it waits for; one wait may lie within another
        self.completed = 0  # operations


here = Here()


def happened(operation: Operation) -> None:
    """It was complete as soon as it was begun."""
    here.completed += 1
    for observer in observers:
        observer.started(operation)
        observer.completed(operation)


class waiting:
    """A context: a call waits that returns when others have made it too. A class, since a generator takes 1 us more."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        here.waits.append(self._operation)
        for observer in observers:
            observer.waits(self._operation)

    def __exit__(self, *_: object) -> None:
        here.waits.pop()
        for observer in observers:
            observer.goes_on()
