"""Parts travel round the ring, one neighbour at a time: steady use of every link, for four ranks and more."""

from collections.abc import Iterator

import numpy as np

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request
from mpi_spp.kv.exchange import Shared
from mpi_spp.parallel.layout import WHOLE, KVLayout

MOVES = Shared


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


def traffic(made: np.ndarray, hosts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Every rank hands on all but what the next one has made; see forecast/routes.py."""
    sent = made.sum(axis=1, keepdims=True) - np.roll(made, -1, axis=1)
    inside = sent * (hosts == np.roll(hosts, -1))
    return sent, np.roll(sent, 1, axis=1), inside, np.roll(inside, 1, axis=1)
