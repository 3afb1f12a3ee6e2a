"""Who takes lines and gives answers: rank 0 keeps the work, the first rank of each other replica asks it for some.

No replica waits for another: answers are sent without waiting, and rank 0 hears the others between its own tokens and
prefills, so one that asks waits for one of these at most.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mpi_spp.batch.work import Answer, Group, Work
from mpi_spp.comm.mailbox import Mailbox, share
from mpi_spp.engine.engine import Engine
from mpi_spp.errors import UserError
from mpi_spp.request import Request

_MORE, _DONE = "more", "done"  # what a replica says that has room for lines, and one that has given all its answers


class Part(Protocol):
    """What a rank does besides computing."""

    def take(self) -> Group:
        """The next group; only the first rank of a replica knows it."""

    def give(self, place: int, answer: Answer) -> None:
        """An answer is there, or none will be."""

    def move_on(self) -> None:
        """Called between tokens and prefills."""

    def leave(self) -> None:
        """Return when what this rank is to do for the others is done."""


class Keeper:
    """Rank 0: it takes from the work itself, and serves the other replicas. `answers`: by the rank that gave them."""

    def __init__(self, work: Work, mailbox: Mailbox, num_replicas: int) -> None:
        self._work, self._mailbox, self._working = work, mailbox, num_replicas - 1
        self.answers: dict[int, int] = {}

    def take(self) -> Group:
        """See Part."""
        return self._work.take()

    def give(self, place: int, answer: Answer, rank: int = 0) -> None:
        """See Part."""
        self.answers[rank] = self.answers.get(rank, 0) + 1
        self._work.finish(place, answer)

    def move_on(self) -> None:
        """See Part."""
        while (message := self._mailbox.take()) is not None:
            self._hear(*message)

    def leave(self) -> None:
        """Serve the others until they are done."""
        while self._working:
            self._hear(*self._mailbox.wait())
        self._mailbox.flush()

    def _hear(self, rank: int, message: str | tuple[int, Answer]) -> None:
        if isinstance(message, tuple):
            self.give(*message, rank=rank)
        elif message == _DONE:
            self._working -= 1
        else:
            self._mailbox.post(self._work.take(), rank)


class Asker:
    """The first rank of another replica."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def take(self) -> Group:
        """See Part."""
        self._mailbox.post(_MORE, 0)
        return self._mailbox.wait()[1]

    def give(self, place: int, answer: Answer) -> None:
        """See Part."""
        self._mailbox.post((place, answer), 0)

    def move_on(self) -> None:
        """See Part."""
        self._mailbox.move_on()

    def leave(self) -> None:
        """See Part."""
        self._mailbox.post(_DONE, 0)
        self._mailbox.flush()


class Helper:
    """Any other rank: it computes what its replica's first rank has taken."""

    def take(self) -> Group:
        """See Part."""
        return []

    def give(self, place: int, answer: Answer) -> None:
        """See Part."""

    def move_on(self) -> None:
        """See Part."""

    def leave(self) -> None:
        """See Part."""


def part_of(engine: Engine, work: Work | None) -> Part:
    """What this rank does; rank 0 has the work. Collective."""
    mailbox = Mailbox(engine.world)
    if work is not None:
        return Keeper(work, mailbox, engine.mesh.dp)
    return Asker(mailbox) if engine.comm.is_first else Helper()


def answer_all(engine: Engine, part: Part, most: int) -> None:
    """Answer groups of lines until there are none, `most` lines at once. Every rank of the job calls this."""
    numbers, under_way = itertools.count(), dict[int, _UnderWay]()

    def requests() -> Iterator[Request]:
        """The next line when there is room for it, of the next group when there is none left."""
        while group := share(engine.comm, part.take()):
            for place, request in group:
                under_way[next(numbers)] = _UnderWay(place, request)
                yield request

    def fail(number: int, error: UserError) -> None:
        part.give(under_way.pop(number).place, str(error))

    for number, token in engine.generate_batch(requests(), part.move_on, fail, most):
        line = under_way[number]
        line.token_ids.append(token)
        if line.request.ends_with(token, len(line.token_ids)):
            part.give(under_way.pop(number).place, line.token_ids)
        part.move_on()
    part.leave()


@dataclass(frozen=True)
class _UnderWay:
    """A line that is answered here."""

    place: int
    request: Request
    token_ids: list[int] = field(default_factory=list)
