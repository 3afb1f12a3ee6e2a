"""Ends a job in which ranks wait in vain, and says who waits for whom."""

import math
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn

from mpi_spp.comm.liveness.heartbeat import Life
from mpi_spp.comm.operation import AT_REST, Operation

_TICKS, _LONGEST_TICK_SECONDS = 8, 1.0  # in a time limit
_BYTES_PER_SECOND = 10_000_000  # a message may take so long on top: what a shared 100 Mbit/s gives
_LONGEST_SILENCE_SECONDS = 5.0  # of a rank that talks twice a second
_TURN_SECONDS = 3.0  # for another rank to speak for all, and for the launcher to end this one then
_READING_SECONDS = 0.5  # launchers drop what they have not handed on when a rank ends
_MANY = 6

_WAY_OUT = "if that is only slow, give --timeout more (0: no limit)"


class Finding(NamedTuple):
    """A line to show, and whether the job is to end."""

    line: str
    is_end: bool


class Watchdog:
    """Looks now and then at what this rank waits for, and whether all others are heard of.

    Time counts while nothing moves (see Life). A rank that works keeps all waits alive but those for a rank of which
    nothing is heard; a rank that waits keeps none. The limit is `timeout` seconds, and as long as the operation's bytes
    take on a slow link. A wait that others keep alive is told of, every `timeout` seconds, by the first that waits. A
    rank that works ends the job, too, when another is lost for as long: it may have hours of work before it waits.
    """

    def __init__(self, life: Life, timeout: float) -> None:
        self._life = life
        self.set_limit(timeout)
        self._operation: Operation | None = None
        self._completed = self._worked = self._told = 0
        self._waited = self._still = 0.0
        self._lost: dict[int, float] = {}  # seconds since a rank that had spoken was missed

    def set_limit(self, timeout: float) -> None:
        """From now on it is `timeout` seconds; 0: none."""
        self._timeout = timeout or math.inf
        self.tick = min(_LONGEST_TICK_SECONDS, self._timeout / _TICKS)

    def start(self) -> None:
        """Look on in a thread of its own, until the process ends."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def look(self, seconds: float) -> Finding | None:
        """Take note of `seconds` since the last look; what there is to say.

        Of a longer time than two ticks this process was stopped itself: then it does not count.
        """
        seconds, operation = min(seconds, 2 * self.tick), self._life.waits_for
        moves = self._moves(operation)
        if operation is None or operation is not self._operation:
            self._waited, self._still, self._told = 0.0, 0.0, 0
        else:
            self._waited += seconds
            self._still = 0.0 if moves else self._still + seconds
        self._operation = operation
        missed = [rank for rank in self._silent() if self._life.heard[rank] is not None]
        self._lost = {rank: self._lost.get(rank, 0.0) + seconds for rank in missed}
        return self._judge_silence() if operation is None else self._judge(operation)

    def _moves(self, operation: Operation | None) -> bool:
        """Whether anything has, since the last look, that lets this wait hope."""
        before, life = (self._completed, self._worked), self._life
        self._completed, self._worked = life.completed_here, life.worked_elsewhere
        has_lost = operation is not None and not set(operation.others).isdisjoint(self._silent())
        return self._completed != before[0] or (self._worked != before[1] and not has_lost)

    def _judge(self, operation: Operation) -> Finding | None:
        limit = self._timeout + operation.nbytes * len(operation.others) // _BYTES_PER_SECOND
        if self._still >= limit:
            return Finding(f"mpi-spp: error: {self._describe(operation)}; {self._news()}{_WAY_OUT}", True)
        ends_soon = self._still == self._waited and limit - self._still < self._timeout
        if operation.kind == AT_REST or ends_soon or self._waited < (self._told + 1) * self._timeout:
            return None
        self._told += 1
        if self._another_speaks():
            return None
        return Finding(f"mpi-spp: {self._describe(operation)}; {self._news()}still waiting", False)

    def _judge_silence(self) -> Finding | None:
        """While this rank works. Who waits for the lost one speaks first, and of those who work the first."""
        own, working = self._life.rank, self._heard(works=True)
        speaks_later = self._heard(works=False) or min(working, default=own) < own
        limit = self._timeout + (_TURN_SECONDS if speaks_later else 0)
        lost = [rank for rank, seconds in self._lost.items() if seconds >= limit]
        if not lost:
            return None
        missed = f"nothing has been heard of {_ranks(lost)}{self._host_of(lost)} for {self._timeout:.0f} s or more"
        return Finding(f"mpi-spp: error: {missed}, while rank {self._life.rank} works; {_WAY_OUT}", True)

    def _watch(self) -> NoReturn:
        last = time.monotonic()
        while True:
            time.sleep(self.tick)
            now = time.monotonic()
            finding, last = self.look(now - last), now
            if finding is not None and finding.is_end and self._another_speaks():
                time.sleep(_TURN_SECONDS)
                finding = self.look(0.0)
            if finding is not None:
                _say(finding.line)
                if finding.is_end:
                    time.sleep(_READING_SECONDS)
                    os._exit(1)  # launchers end all ranks when one leaves before MPI is finalised

    def _another_speaks(self) -> bool:
        """Whether a rank of a lower number has told that it waits too: one line is enough."""
        return any(rank < self._life.rank for rank in self._heard(works=False))

    def _heard(self, works: bool) -> list[int]:
        """The ranks that have told lately that they work, or that they wait."""
        oldest = time.monotonic() - self._longest_silence
        words = enumerate(self._life.heard)
        return [rank for rank, word in words if word and word.works == works and word.at > oldest]

    def _silent(self) -> list[int]:
        """The ranks that should have been heard lately; none where this one, in a call of MPI, could hear nobody."""
        life = self._life
        if life.listened_at < time.monotonic() - self._longest_silence:
            return []
        heard = {life.rank, *self._heard(works=False), *self._heard(works=True)}
        return [rank for rank in range(life.size) if rank not in heard]

    @property
    def _longest_silence(self) -> float:
        return min(_LONGEST_SILENCE_SECONDS, max(self._timeout / 2, 1.0))

    def _describe(self, operation: Operation) -> str:
        of, others = self._life.rank, operation.others
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - self._waited))
        return (
            f"rank {of}{self._host_of([of])} has waited {self._waited:.0f} s, since {since}, for"
            f" {_ranks(others)}{self._host_of(others)} in {_words(operation)}"
        )

    def _news(self) -> str:
        """What is known of the others."""
        working, silent = self._heard(works=True), self._silent()
        news = f"{_ranks(working)} at work; " if working else ""
        if silent:
            news += f"nothing is heard of {_ranks(silent)}{self._host_of(silent)}; "
        nobody_works = len(self._heard(works=False)) == self._life.size - 1
        return news + ("every rank waits, none works; " if nobody_works else "")

    def _host_of(self, ranks: Sequence[int]) -> str:
        """Where there are several hosts, that of these ranks."""
        hosts = self._life.hosts
        names = {hosts[rank] for rank in ranks}
        return f" ({names.pop()})" if len(set(hosts)) > 1 and len(names) == 1 else ""


@contextmanager
def guarded(timeout: float, doing: str) -> Iterator[None]:
    """End this process with a line when the body takes longer than `timeout` seconds; 0: never.

    For calls of MPI that hold the lock of Python, in which no thread of it could say a word: a child process waits
    beside them. It must not be one in which MPI is running.
    """
    if not timeout:
        yield
        return
    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            os.close(writing)
            _wait_beside(parent, reading, timeout, doing)
        finally:
            os._exit(0)  # whatever happens, the child must not do the parent's work
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        with suppress(ChildProcessError):  # where the signal of its end is ignored, the kernel buries it
            os.waitpid(child, 0)


def _wait_beside(parent: int, reading: int, timeout: float, doing: str) -> None:
    """Until the parent closes its end, or ends."""
    if not select.select([reading], [], [], timeout)[0]:
        _say(f"mpi-spp: error: {doing} has taken {timeout:.0f} s; {_WAY_OUT}")
        time.sleep(_READING_SECONDS)
        os.kill(parent, signal.SIGKILL)


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())  # whole, and without a lock that the waiting thread may hold


def _ranks(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"{len(numbers)} ranks" if len(numbers) > _MANY else f"ranks {', '.join(map(str, numbers))}"


def _words(operation: Operation) -> str:
    facts = [operation.comm]
    if operation.kind in ("send", "receive"):
        facts.append(f"tag {operation.tag}")
    if operation.nbytes:
        facts.append(f"{operation.nbytes / 1e6:.1f} MB" if operation.nbytes >= 1e5 else f"{operation.nbytes} bytes")
    return f"{operation.kind} ({', '.join(facts)})"
