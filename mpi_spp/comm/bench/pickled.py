"""Through mpi4py's lower-case methods, which pickle NumPy arrays: the way of most first programs."""

from __future__ import annotations  # types of MPI are named before it is loaded

from functools import partial

import torch

from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.transport import Call, Transport, Unavailable, ping_pong
from mpi_spp.comm.library import MPI


class Pickled(Transport):
    """Blocking only: mpi4py has no nonblocking collectives of pickled objects."""

    name = "pickled"
    copies = 4  # the pickles that are sent, joined, and received, and the arrays made of them

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm

    def blocking(self, exchange: Exchange) -> Call:
        """See Transport."""
        comm = self._comm
        if not exchange.takes_part:
            return lambda: None
        if exchange.dtype == torch.bfloat16:
            raise Unavailable("NumPy has no bfloat16")
        outgoing, incoming = list(exchange.outgoing.numpy()), exchange.incoming.numpy()
        if exchange.operation == "allgather":
            return partial(comm.allgather, outgoing[0])
        if exchange.operation == "ring":
            return partial(comm.sendrecv, outgoing[0], exchange.next, source=exchange.prev)
        if exchange.operation == "allreduce":
            return partial(comm.allreduce, incoming[0])
        if exchange.operation == "alltoall":
            return partial(comm.alltoall, outgoing)
        if exchange.operation == "broadcast":
            return partial(comm.bcast, incoming[0] if exchange.rank == 0 else None)
        send = partial(comm.send, outgoing[0], exchange.peer)
        return ping_pong(exchange, send, partial(comm.recv, source=exchange.peer))
