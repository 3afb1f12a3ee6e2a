"""What every way of moving messages can be asked for."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mpi_spp.comm.bench.exchange import Exchange

Call = Callable[[], Any]


class Unavailable(Exception):
    """A transport that cannot do what was asked for; the message says why."""


class Transport(Protocol):
    """A way to carry out exchanges, the same on all ranks.

    The methods that take an exchange prepare it once and return what is timed. That returns what arrived, if it lies
    in new memory and not in `exchange.incoming`. They raise Unavailable, on all ranks or on none.
    """

    name: str
    copies: int  # at most so many times an exchange's memory is taken besides

    def blocking(self, exchange: Exchange) -> Call:
        """A call that returns when the exchange is done on this rank."""

    def start(self, exchange: Exchange) -> Callable[[], Sequence[Any]]:
        """A call that starts the exchange and returns its requests."""
        raise Unavailable("has no nonblocking operations")

    def test(self, requests: Sequence[Any]) -> None:
        """Move started requests on."""
        raise Unavailable("has no nonblocking operations")

    def wait(self, requests: Sequence[Any]) -> None:
        """Return when the requests are complete."""
        raise Unavailable("has no nonblocking operations")

    def persistent(self, exchange: Exchange) -> Call:
        """A call that carries out an exchange whose arguments the library has been given before."""
        raise Unavailable("has no persistent operations")

    def close(self) -> None:
        """Give back what the transport holds. Collective."""
        return


def ping_pong(exchange: Exchange, send: Call, receive: Call) -> Call:
    """There and back between the first and the last rank; the others do nothing."""

    def serve() -> Any:
        send()
        return receive()

    def return_it() -> Any:
        arrived = receive()
        send()
        return arrived

    if not exchange.takes_part:
        return lambda: None
    return serve if exchange.rank == 0 else return_it
