"""What was made of MPI for an owner, and is given back when the owner is gone."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

Free = Callable[[], object]


class Leases:
    """Communicators and windows of objects that come and go; without this they would stay until the end of the job.

    Python drops an object at a moment of its own on each rank, while MPI frees on all ranks together. So what belonged
    to one is freed when the ranks next meet here and all of them have dropped it, as PETSc does for Python's sake.
    A library knows only so many communicators: MPICH 2,048, and with none left it may crash.
    """

    def __init__(self, gather: Callable[[Any], list[Any]]) -> None:
        """`gather`: the values of all ranks of the job, on all ranks; see World."""
        self._gather = gather
        self._held: list[tuple[weakref.ref[Any], Sequence[Free]]] = []

    def add(self, owner: object, frees: Sequence[Free]) -> None:
        """Call `frees`, which must not hold the owner, when all ranks are without it. All ranks add alike."""
        self._held.append((weakref.ref(owner), frees))

    def end(self) -> None:
        """Free what has no owner on any rank. Collective over the job."""
        of_all = self._gather([owner() is None for owner, _ in self._held])
        gone = [all(flags) for flags in zip(*of_all, strict=True)]
        leases, self._held = self._held, []
        for is_gone, lease in zip(gone, leases, strict=True):
            if not is_gone:
                self._held.append(lease)
                continue
            for free in lease[1]:
                free()
