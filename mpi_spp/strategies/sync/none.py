"""Nothing travels: the decode goes on where the prefill has left the cache."""

from collections.abc import Iterator

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import Parcels
from mpi_spp.parallel.layout import KVLayout

MOVES = Parcels


def joins(source: KVLayout, target: KVLayout) -> bool:
    """A layout with itself."""
    return source == target


def exchange(comm: Communicator, parcels: Parcels) -> Iterator[Request]:
    """Every parcel is empty."""
    return iter(())
