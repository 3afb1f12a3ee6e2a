"""The MPI library, loaded when something of it is first used: what only plans a run works where there is none."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpi4py import MPI
else:

    class _Library:
        """Looks like the module; what has been asked for once is an attribute like any other."""

        def __getattr__(self, name: str) -> Any:
            from mpi4py import MPI

            found = getattr(MPI, name)
            setattr(self, name, found)
            return found

    MPI = _Library()

__all__ = ["MPI"]
