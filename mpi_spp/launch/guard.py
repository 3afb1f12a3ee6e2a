"""Ends a launcher that outlives its ranks: of a host that no longer answers it may await news for a quarter of an hour.

Ranks that wait in vain end the job (`--timeout`). The launcher then has all hosts end what is left, and waits until
each says that it has. From a lost one nothing comes until TCP gives up, and no option of the MPIs was found that
shortens this and leaves the status of the job what it is.
"""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

_PATIENCE_SECONDS = 20.0  # launchers usually end a tenth of a second after their ranks
_LOOKS = 4  # in that time
_SECONDS_TO_CLEAN_UP = 3.0
_ONLY_RANKS_HAVE = (b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
_LINE = "mpi-spp: error: the ranks on this host have ended, and mpirun still waits for another one; ending it\n"


def guard_this_process(patience: float = _PATIENCE_SECONDS) -> None:
    """Have this process, which is to become the launcher, ended when it awaits a host for `patience` seconds in vain:

    its ranks on this host have come and gone, and an ssh of its own to another host has not. The guard is a process
    that ends with the launcher; it does nothing where no rank runs on this host, or where ranks start without ssh.
    There is none where kernel or Python have no handles of processes (Linux before 5.3, some builds, some containers).
    """
    launcher = os.getpid()
    try:
        handle = os.pidfd_open(launcher)
    except (AttributeError, OSError):
        return
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:  # an orphan: launchers wait for their children
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C they wait for lost hosts too
                _let_go_of_output()
                _guard(launcher, handle, patience)
        finally:
            os._exit(0)  # whatever happens, it must not go on as the launcher
    os.close(handle)
    os.waitpid(child, 0)


def _let_go_of_output() -> None:
    """Whoever reads it should not wait for the guard."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _guard(launcher: int, handle: int, patience: float) -> None:
    had_ranks, looks = False, 0
    while not _has_ended(handle, patience / _LOOKS):
        others = list(_descendants(launcher))
        has_ranks = any(_is_rank(process) for process in others)
        had_ranks = had_ranks or has_ranks
        # Without an ssh it may be output that nobody takes which keeps it.
        awaits_host = had_ranks and not has_ranks and any(_is_ssh(process) for process in others)
        looks = looks + 1 if awaits_host else 0
        if looks > _LOOKS:
            os.write(2, _LINE.encode())
            return _end(launcher, handle)
    return None


def _end(launcher: int, handle: int) -> None:
    """End it, if need be by force, and what it has started: an ssh to a lost host would stay."""
    others = list(_descendants(launcher))
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    if not _has_ended(handle, _SECONDS_TO_CLEAN_UP):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    for process in others:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _has_ended(handle: int, seconds: float) -> bool:
    """Whether a process ends within this time."""
    return bool(select.select([handle], [], [], seconds)[0])


def _descendants(process: int) -> Iterator[int]:
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, _read(listed).split()):
            yield child
            yield from _descendants(child)


def _is_rank(process: int) -> bool:
    return any(name in _read(Path(f"/proc/{process}/environ")) for name in _ONLY_RANKS_HAVE)


def _is_ssh(process: int) -> bool:
    return _read(Path(f"/proc/{process}/comm")).strip() == b"ssh"


def _read(path: Path) -> bytes:
    """Nothing where the process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
