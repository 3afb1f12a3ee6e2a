"""Through mpi4py's buffer methods, their arguments made beforehand: MPI as fast as Python can have it."""

from __future__ import annotations  # types of MPI are named before it is loaded

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.transport import Call, Transport, Unavailable, ping_pong
from mpi_spp.comm.buffers import Spec, memory_of
from mpi_spp.comm.library import MPI

_COLLECTIVES = {"allgather": "Allgather", "allreduce": "Allreduce", "alltoall": "Alltoall", "broadcast": "Bcast"}


class Raw(Transport):
    """`MPI.Comm`."""

    name = "raw"
    copies = 0

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm

    def blocking(self, exchange: Exchange) -> Call:
        """See Transport."""
        outgoing, incoming = _specs(exchange)
        if exchange.operation == "ring":
            return partial(self._comm.Sendrecv, outgoing, exchange.next, 0, incoming, exchange.prev, 0)
        if exchange.operation == "ping-pong":
            send = partial(self._comm.Send, outgoing, exchange.peer)
            return ping_pong(exchange, send, partial(self._comm.Recv, incoming, exchange.peer))
        return partial(getattr(self._comm, _COLLECTIVES[exchange.operation]), *_arguments(exchange))

    def start(self, exchange: Exchange) -> Callable[[], Sequence[MPI.Request]]:
        """See Transport."""
        comm, (outgoing, incoming) = self._comm, _specs(exchange)
        if exchange.operation == "ping-pong":
            raise Unavailable("each message waits for the one before: nothing could overlap")
        if exchange.operation == "ring":
            return lambda: [comm.Irecv(incoming, exchange.prev), comm.Isend(outgoing, exchange.next)]
        begin = getattr(comm, "I" + _COLLECTIVES[exchange.operation].lower())
        arguments = _arguments(exchange)
        return lambda: [begin(*arguments)]

    def test(self, requests: Sequence[MPI.Request]) -> None:
        """See Transport."""
        MPI.Request.Testall(requests)

    def wait(self, requests: Sequence[MPI.Request]) -> None:
        """See Transport."""
        if len(requests) == 1:
            requests[0].Wait()
        else:
            MPI.Request.Waitall(requests)

    def persistent(self, exchange: Exchange) -> Call:
        """See Transport. Collectives of this kind came with MPI 4."""
        comm, (outgoing, incoming) = self._comm, _specs(exchange)
        if exchange.operation == "ring":
            both = [comm.Recv_init(incoming, exchange.prev), comm.Send_init(outgoing, exchange.next)]
            return _Persistent(both)
        if exchange.operation == "ping-pong":
            if not exchange.takes_part:
                return lambda: None
            send = _Persistent([comm.Send_init(outgoing, exchange.peer)])
            return ping_pong(exchange, send, _Persistent([comm.Recv_init(incoming, exchange.peer)]))
        begin = getattr(comm, _COLLECTIVES[exchange.operation] + "_init")
        try:
            return _Persistent([begin(*_arguments(exchange))])
        except (NotImplementedError, MPI.Exception) as error:
            raise Unavailable(f"this MPI has no persistent form of it ({error})") from None


class _Persistent:
    """Requests that are started again and again, and freed with this object."""

    def __init__(self, requests: list[MPI.Prequest]) -> None:
        self._requests = requests

    def __call__(self) -> None:
        if len(self._requests) == 1:
            self._requests[0].Start()
            self._requests[0].Wait()
        else:
            MPI.Prequest.Startall(self._requests)
            MPI.Request.Waitall(self._requests)

    def __del__(self) -> None:
        for request in self._requests:
            request.Free()


def _specs(exchange: Exchange) -> tuple[Spec, Spec]:
    """Counts follow from the memory, and in collectives from the number of ranks."""
    return [memory_of(exchange.outgoing), MPI.BYTE], [memory_of(exchange.incoming), MPI.BYTE]


def _arguments(exchange: Exchange) -> tuple[Any, ...]:
    """Of a collective."""
    outgoing, incoming = _specs(exchange)
    if exchange.operation == "allgather":
        return MPI.IN_PLACE, incoming
    if exchange.operation == "allreduce":
        return MPI.IN_PLACE, [incoming[0], _number_type(exchange.dtype)]
    if exchange.operation == "alltoall":
        return outgoing, incoming
    return incoming, 0


def _number_type(dtype: torch.dtype) -> MPI.Datatype:
    types = {torch.float32: MPI.FLOAT, torch.float64: MPI.DOUBLE}
    if dtype not in types:
        raise Unavailable(f"MPI cannot add {dtype}")
    return types[dtype]
