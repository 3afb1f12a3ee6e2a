"""Ranks that stay: they run one `mpi-spp` command after another, as ranks that were started for it would.

A start of ranks takes seconds, most of them to load torch; a command on ranks that are there takes a fraction of one.
What tests of a start, a death, a signal or an open stream look at needs ranks of its own: see mpirun.py. With `--full`
everything has them.
"""

import contextlib
import json
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mpirun import ROOT, TIMEOUT_SECONDS, Ended, end, mpi_spp, mpirun, mpirun_different, run, start

ALL_START = bool(os.environ.get("MPI_SPP_FULL_TESTS"))
Line = Callable[[int, list[str]], list[str]]

_PROGRAM = Path(__file__).with_name("console_rank.py")


class ConsoleEnded(AssertionError):
    """A command has ended the ranks, or has not ended in time. The next command gets new ranks."""


class _Rank:
    """The connection with one rank; it can be waited for by `select`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self._connection, self._lines = connection, connection.makefile()
        self.number = int(self._lines.readline())

    def fileno(self) -> int:
        """See select.select."""
        return self._connection.fileno()

    def tell(self, command: Mapping[str, Any]) -> None:
        """Begin; where it has died meanwhile, `status` tells."""
        with contextlib.suppress(BrokenPipeError):
            self._connection.sendall(json.dumps(command).encode() + b"\n")

    def status(self) -> int | None:
        """Of the command, when there is something to read; None: it has died."""
        try:
            return int(self._lines.readline())
        except (ConnectionResetError, ValueError):
            return None

    def leave(self) -> None:
        """Let it end."""
        self._lines.close()
        self._connection.close()


class Ranks(Protocol):
    """So many ranks of `mpi-spp`, which stay or are started for each command."""

    def run(
        self, *words: str, cwd: Path = ROOT, variables: Mapping[str, str] | None = None, timeout: float = ...
    ) -> Ended:
        """`mpi-spp` with these words on all ranks, further variables of the environment, and a limit to its time."""

    def run_different(
        self,
        words: Sequence[Sequence[str]],
        cwd: Path = ROOT,
        variables: Sequence[Mapping[str, str]] = (),
        timeout: float = ...,
    ) -> Ended:
        """Other words, or other variables, for each rank: as on hosts that are not alike."""

    def close(self) -> None:
        """Leave nothing running and nothing on the disk."""


class Starts:
    """Ranks that are started for each command; one: no mpirun."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks

    def run(
        self,
        *words: str,
        cwd: Path = ROOT,
        variables: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Ended:
        """See Ranks."""
        command = mpi_spp(*words)
        argv = command if self.num_ranks == 1 else mpirun(self.num_ranks, command)
        return run(argv, timeout, cwd=cwd, variables=variables)

    def run_different(
        self,
        words: Sequence[Sequence[str]],
        cwd: Path = ROOT,
        variables: Sequence[Mapping[str, str]] = (),
        timeout: float = TIMEOUT_SECONDS,
    ) -> Ended:
        """See Ranks."""
        commands = [
            ["env", *(f"{name}={value}" for name, value in own.items()), *mpi_spp(*command)]
            for command, own in zip(words, variables or [{}] * len(words), strict=True)
        ]
        return run(mpirun_different(*commands), timeout, cwd=cwd)

    def close(self) -> None:
        """See Ranks."""


class Console:
    """So many ranks, started when they are first needed and again when a command has ended them; one: no mpirun."""

    def __init__(self, num_ranks: int, program: Path = _PROGRAM, line: Line = mpirun) -> None:
        """`program`: what each rank is; `line`: what starts so many ranks of a command."""
        self.num_ranks = num_ranks
        self._program, self._line = program, line
        self._directory = tempfile.TemporaryDirectory(prefix="mpi-spp-")
        self._job: Any = None
        self._ranks: list[_Rank] = []
        self._number = 0

    def run(
        self,
        *words: str,
        cwd: Path = ROOT,
        variables: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Ended:
        """See Ranks."""
        return self.run_different([words] * self.num_ranks, cwd, [variables or {}] * self.num_ranks, timeout)

    def run_different(
        self,
        words: Sequence[Sequence[str]],
        cwd: Path = ROOT,
        variables: Sequence[Mapping[str, str]] = (),
        timeout: float = TIMEOUT_SECONDS,
    ) -> Ended:
        """See Ranks."""
        self._require_job()
        self._number += 1
        files = {name: str(self._path(f"{self._number}.{name}")) for name in ("stdout", "stderr")}
        for file in files.values():
            Path(file).touch()
        began = time.monotonic()
        for rank, own in zip(self._ranks, zip(words, variables or [{}] * len(words), strict=True), strict=True):
            command = {"words": own[0], "variables": dict(own[1]), "cwd": str(cwd)} | files
            rank.tell(command)
        statuses = self._answers(began + timeout, files)
        stdout, stderr = (Path(file).read_bytes().decode() for file in files.values())
        return Ended(max(statuses), stdout, stderr, time.monotonic() - began)

    def end(self) -> None:
        """Leave nothing running; the next command gets new ranks."""
        for rank in self._ranks:
            rank.leave()
        self._ranks = []
        if self._job is not None:
            end(self._job)
        self._job = None

    def close(self) -> None:
        """See Ranks."""
        self.end()
        self._directory.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._directory.name) / name

    def _require_job(self) -> None:
        """Start the ranks if they are not there. What no command has written goes to a file of the job."""
        if self._job is not None and self._job.poll() is None:
            return
        self.end()
        address = self._path("socket")
        address.unlink(missing_ok=True)
        command = [sys.executable, str(self._program), str(address)]
        with socket.socket(socket.AF_UNIX) as listener, self._path("job").open("wb") as output:
            listener.bind(str(address))
            listener.listen(self.num_ranks)
            listener.settimeout(TIMEOUT_SECONDS)
            argv = command if self.num_ranks == 1 else self._line(self.num_ranks, command)
            self._job = start(argv, stdout=output, stderr=output)
            ranks = [_Rank(listener.accept()[0]) for _ in range(self.num_ranks)]
        self._ranks = sorted(ranks, key=lambda rank: rank.number)

    def _answers(self, deadline: float, files: Mapping[str, str]) -> list[int]:
        """The exit status of each rank, in the order in which they end."""
        statuses: list[int] = []
        for rank in self._each_when_ready(deadline):
            status = rank.status()
            if status is None:
                break
            statuses.append(status)
        if len(statuses) == self.num_ranks:
            return statuses
        died = "has not ended in time" if time.monotonic() >= deadline else "has ended the ranks"
        self.end()
        written = "".join(Path(file).read_text(errors="replace") for file in [*files.values(), self._path("job")])
        raise ConsoleEnded(f"the command {died}; statuses {statuses}; written:\n{written}")

    def _each_when_ready(self, deadline: float) -> Iterator[_Rank]:
        waiting = list(self._ranks)
        while waiting and (ready := select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))[0]):
            for rank in ready:
                waiting.remove(rank)
                yield rank


def lasting(num_ranks: int, line: Line = mpirun) -> Ranks:
    """Ranks for many commands that only their output is asked of."""
    return Starts(num_ranks) if ALL_START else Console(num_ranks, line=line)
