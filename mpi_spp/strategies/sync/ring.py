"""Parts travel round the ring, one neighbour at a time: steady use of every link, for four ranks and more."""

from collections.abc import Iterator

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import Shared
from mpi_spp.parallel.layout import WHOLE, KVLayout

MOVES = Shared
NEIGHBOURS_ONLY = True  # so what a rank sends is all but what the next one has made


def joins(source: KVLayout, target: KVLayout) -> bool:
    """Whatever was split becomes whole."""
    return target == WHOLE


def exchange(comm: Communicator, shared: Shared) -> Iterator[Request]:
    """At step k a rank sends on what was made k ranks before it, and receives what was made k + 1 ranks before it."""
    order = [shared.part((comm.rank - step) % comm.size) for step in range(comm.size)]
    arrivals = [comm.irecv(part, comm.prev, shared.tag) for part in order[1:]]
    departures = []
    for part, arrival in zip(order, arrivals, strict=False):
        departures.append(comm.isend(part, comm.next, shared.tag))
        yield arrival
    yield from departures
