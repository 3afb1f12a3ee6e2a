"""Runs one command in a copy of this process, within limits: what it may break, or not end, is the copy's alone."""

import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from case import Case, Outcome, Room

_MIB = 2**20
_MOST_OUTPUT = 64 * _MIB


@dataclass(frozen=True)
class Limits:
    """Of one command. The first two make a fault; the others end it."""

    cpu_seconds: float = 2.0
    mib: float = 300.0
    wall_seconds: float = 12.0
    cpu_seconds_to_end: int = 6
    mib_to_end: int = 2048


def run_case(case: Case, room: Room, limits: Limits, program: Callable[[], None], idle_mib: float) -> Outcome:
    """The outcome of a case's command. `program`: what `mpi-spp` is; `idle_mib`: of a copy that does nothing."""
    before = room.files()
    streams = [room.path / "stdout", room.path / "stderr"]
    room_of_file = str(room.path)

    def command() -> None:
        os.chdir(room.work)
        for number, path in zip((1, 2), streams, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.environ.update(room.variables() | case.variables)
        sys.argv[:] = ["mpi-spp", *case.words]
        program()

    status, cpu_seconds, mib = run(command, limits)
    stdout, stderr = (_start_of(path) for path in streams)
    for path in streams:
        path.unlink(missing_ok=True)
    left = sorted(room.files() - before)
    text = stderr.decode("utf-8", "replace").replace(room_of_file, "ROOM")
    return Outcome(status, stdout, text, cpu_seconds, mib - idle_mib, left)


def run(work: Callable[[], None], limits: Limits) -> tuple[int | None, float, float]:
    """Do some work in a copy of this process: its status (see Outcome), CPU seconds, and MiB at most."""
    child = os.fork()
    if child == 0:
        _be_the_copy(work, limits)
    handle = os.pidfd_open(child)
    ended = select.select([handle], [], [], limits.wall_seconds * _rush())[0]
    os.close(handle)
    try:
        os.killpg(child, signal.SIGKILL)  # and all that it started
    except (ProcessLookupError, PermissionError):
        if not ended:
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _be_the_copy(work: Callable[[], None], limits: Limits) -> None:
    """Never returns: whatever the work does, this copy ends."""
    status = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _limit(resource.RLIMIT_CPU, limits.cpu_seconds_to_end)
        _limit(resource.RLIMIT_AS, _address_space() + limits.mib_to_end * _MIB)
        _limit(resource.RLIMIT_FSIZE, 4 * _MOST_OUTPUT)
        _limit(resource.RLIMIT_CORE, 0)
        work()
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                status = status or 120
        os._exit(status & 255)


def _rush() -> float:
    """How many processes there are for each core: on a busy machine a case may sleep for longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _start_of(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(_MOST_OUTPUT)
