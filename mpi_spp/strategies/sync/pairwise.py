"""Every rank gives its part to every other in one Allgather: the fewest rounds, best for two to four ranks."""

from collections.abc import Iterator

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import Shared
from mpi_spp.parallel.layout import WHOLE, KVLayout

MOVES = Shared


def joins(source: KVLayout, target: KVLayout) -> bool:
    """Whatever was split becomes whole."""
    return target == WHOLE


def exchange(comm: Communicator, shared: Shared) -> Iterator[Request]:
    """One nonblocking Allgather, in place."""
    yield comm.iallgather(shared.rows, shared.lengths)
