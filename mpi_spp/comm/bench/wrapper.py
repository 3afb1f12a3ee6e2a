"""Through this package's own communicator, as the engine calls it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.transport import Call, Transport, Unavailable, ping_pong
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.requests import Request


class Wrapper(Transport):
    """`Communicator`."""

    name = "wrapper"
    copies = 1  # where messages are staged through the host

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def blocking(self, exchange: Exchange) -> Call:
        """See Transport."""
        comm, outgoing, incoming = self._comm, exchange.outgoing, exchange.incoming
        if exchange.operation == "allreduce":
            if exchange.dtype != torch.float32:
                raise Unavailable("sums float32 only")
            return partial(comm.sum_in_place, incoming)
        if exchange.operation == "allgather":
            return partial(comm.allgather_in_place, incoming)
        if exchange.operation == "broadcast":
            return partial(comm.broadcast, incoming, 0)
        if exchange.operation == "ping-pong":
            return ping_pong(
                exchange,
                lambda: comm.wait(comm.isend(outgoing, exchange.peer)),
                lambda: comm.wait(comm.irecv(incoming, exchange.peer)),
            )
        start = self.start(exchange)

        def call() -> None:
            for request in start():
                comm.wait(request)

        return call

    def start(self, exchange: Exchange) -> Callable[[], Sequence[Request]]:
        """See Transport."""
        comm, outgoing, incoming, lengths = self._comm, exchange.outgoing, exchange.incoming, [1] * exchange.size
        starts: dict[str, Callable[[], Sequence[Request]]] = {
            "allgather": lambda: [comm.iallgather(incoming, lengths)],
            "alltoall": lambda: [comm.ialltoall(outgoing, lengths, incoming, lengths)],
            "ring": lambda: [comm.irecv(incoming, exchange.prev), comm.isend(outgoing, exchange.next)],
        }
        if exchange.operation not in starts:
            raise Unavailable("has no nonblocking form of it")
        return starts[exchange.operation]

    def test(self, requests: Sequence[Request]) -> None:
        """See Transport."""
        for request in requests:
            request.test()

    def wait(self, requests: Sequence[Request]) -> None:
        """See Transport."""
        for request in requests:
            self._comm.wait(request)
