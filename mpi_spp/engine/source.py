"""Where an engine's requests come from: all at once, or one by one while others are answered."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mpi_spp.request import Request


@dataclass(frozen=True)
class Arrived:
    """What has come since the last step: requests, and the numbers of those that nobody wants an answer to any more.

    A request's number is how many came before it.
    """

    requests: Sequence[Request] = ()
    dropped: Sequence[int] = field(default=())


class Source(Protocol):
    """Asked between two steps, by all ranks alike; it tells all of them the same."""

    def take(self, room: int | None, is_idle: bool) -> Arrived | None:
        """At most `room` requests (None: any number). None: no more will come.

        `is_idle`: nothing is under way, so it waits until there is something to tell.
        """


class InOrder:
    """Requests that are taken when there is room for them. All ranks have the same, or share them as they are taken."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)

    def take(self, room: int | None, is_idle: bool) -> Arrived | None:
        """See Source."""
        new = list(itertools.islice(self._requests, room))
        return Arrived(new) if new or not is_idle else None
