"""Every rank gets only what its part of the decode needs, in one Alltoallv: layers split become heads split."""

from collections.abc import Iterator

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import Parcels
from mpi_spp.parallel.layout import KVLayout

MOVES = Parcels


def joins(source: KVLayout, target: KVLayout) -> bool:
    """Any two layouts that differ."""
    return source != target


def exchange(comm: Communicator, parcels: Parcels) -> Iterator[Request]:
    """One nonblocking Alltoallv."""
    yield comm.ialltoall(parcels.outgoing, parcels.out_lengths, parcels.incoming, parcels.in_lengths)
