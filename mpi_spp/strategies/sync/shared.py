"""The ranks of a host keep one cache in shared memory: nothing travels inside a host, one copy to each other host."""

from collections.abc import Iterator

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import HostParcels
from mpi_spp.parallel.layout import WHOLE, KVLayout

MOVES = HostParcels
SHARES_MEMORY = True


def joins(source: KVLayout, target: KVLayout) -> bool:
    """Whatever was split becomes whole."""
    return target == WHOLE


def exchange(comm: Communicator, parcels: HostParcels) -> Iterator[Request]:
    """One nonblocking Alltoallv, in which only one rank of each other host gets this rank's part."""
    if any(parcels.first_of[0] != first for first in parcels.first_of):
        yield comm.ialltoall(parcels.outgoing, parcels.out_lengths, parcels.incoming, parcels.in_lengths)
