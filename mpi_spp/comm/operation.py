"""What a rank does with others: named, so that whoever looks on can say which operation waits for whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol


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


class Observer(Protocol):
    """Someone who looks on at the operations of this rank. Each call is on the way of a message: be short."""

    def started(self, operation: Operation) -> None:
        """It is under way."""

    def completed(self, operation: Operation) -> None:
        """It is complete, as this rank has just found out."""

    def waits(self, operation: Operation) -> None:
        """This rank has nothing to do until the operation is complete."""

    def goes_on(self) -> None:
        """This rank waits no longer."""


observers: list[Observer] = []


@contextmanager
def waiting(operation: Operation) -> Iterator[None]:
    """While MPI itself waits, in a call that returns when others have made it too."""
    for observer in observers:
        observer.waits(operation)
    try:
        yield
    finally:
        for observer in observers:
            observer.goes_on()
