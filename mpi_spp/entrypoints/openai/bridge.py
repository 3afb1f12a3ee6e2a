"""Between the threads that speak HTTP and the ranks that compute: requests one way, tokens the other."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.mailbox import share
from mpi_spp.comm.world import World
from mpi_spp.engine.source import Arrived
from mpi_spp.errors import UserError
from mpi_spp.request import Request

_SIGN_SECONDS = 0.2  # an idle rank 0 shows life so often

Event = int | UserError  # a token, or why there will be none


class Busy(Exception):
    """The queue is full, or the server ends."""


@dataclass(eq=False)
class Ticket:
    """A request that somebody waits for. `deliver` is called with each event, by the thread that computes."""

    request: Request
    deliver: Callable[[Event], None]
    number: int | None = None  # once the ranks have taken it
    num_tokens: int = 0
    asked_at: float = field(default_factory=time.monotonic)


class Bridge:
    """Rank 0's queue, and a source of requests for all ranks: see `Source`.

    `submit`, `cancel` and `close` are for any thread of rank 0, all else for the thread that speaks MPI.
    """

    def __init__(self, world: World, comm: Communicator, most_waiting: int) -> None:
        """`most_waiting`: of requests that no rank has taken yet."""
        self._world, self._comm, self._most_waiting = world, comm, most_waiting
        self._lock, self._news = threading.Lock(), threading.Event()
        self._waiting = deque[Ticket]()
        self._taken: dict[int, Ticket] = {}
        self._dropped: list[int] = []
        self._count, self._ends_at = 0, float("inf")
        self._is_closing = False

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that the ranks are at."""
        return len(self._taken)

    def submit(self, tickets: list[Ticket]) -> None:
        """Queue all of them, or none. Raises Busy."""
        with self._lock:
            if self._is_closing:
                raise Busy("the server is ending")
            if len(self._waiting) + len(tickets) > self._most_waiting:
                raise Busy(f"{self._most_waiting} requests wait already; try again later")
            self._waiting += tickets
        self._news.set()

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more; nothing happens when it is done."""
        with self._lock:
            if ticket.number is not None:
                if ticket.number in self._taken:
                    self._dropped.append(ticket.number)
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
        self._news.set()

    def close(self, seconds: float) -> None:
        """Refuse what waits and what comes, and finish what runs, within so many seconds.

        A signal may call it, while its thread holds any lock: so it takes none, and who rests sees it at the next sign.
        """
        self._is_closing, self._ends_at = True, time.monotonic() + seconds

    def take(self, room: int | None, is_idle: bool) -> Arrived | None:
        """See Source."""
        if is_idle:
            self._rest()
        told = None
        if self._comm.is_first:
            told = self._next(room)
        told = share(self._comm, told)
        if told == "end":
            return None
        return Arrived() if told is None else told

    def deliver(self, number: int, token: int) -> None:
        """A token of a request that was taken."""
        ticket = self._taken.get(number)
        if ticket is None:
            return
        ticket.num_tokens += 1
        if ticket.request.ends_with(token, ticket.num_tokens):
            del self._taken[number]
        ticket.deliver(token)

    def fail(self, number: int, error: UserError) -> None:
        """A request that was taken has no next token."""
        ticket = self._taken.pop(number, None)
        if ticket is not None:
            ticket.deliver(error)

    def _rest(self) -> None:
        """Return when there is news; meanwhile this rank sleeps."""
        while self._comm.is_first and not (self._waiting or self._is_closing):
            self._news.wait(_SIGN_SECONDS)
            self._news.clear()
            works()
        self._world.rest()

    def _next(self, room: int | None) -> Arrived | str | None:
        """What rank 0 tells all."""
        with self._lock:
            if self._is_closing:
                self._refuse_waiting()
                if not self._taken:
                    return "end"
                if time.monotonic() > self._ends_at:
                    self._dropped += self._taken
            new = [
                self._waiting.popleft()
                for _ in range(len(self._waiting) if room is None else min(len(self._waiting), room))
            ]
            for ticket in new:
                ticket.number = self._count
                self._taken[self._count] = ticket
                self._count += 1
            dropped, self._dropped = self._dropped, []
            for number in dropped:
                self._taken.pop(number, None)
        return Arrived([ticket.request for ticket in new], dropped) if new or dropped else None

    def _refuse_waiting(self) -> None:
        for ticket in self._waiting:
            ticket.deliver(UserError("the server is ending"))
        self._waiting.clear()
