"""Runs a launcher of ranks: sees to it that it ends, with a status that tells what came of the job, and leaves nothing.

A launcher that is killed leaves files behind (see launch/leftovers.py). And two things happen when a host is lost.
Ranks that wait in vain end the job (`--timeout`); the launcher then waits until each host says that it has nothing
left, and from a lost one nothing comes until TCP gives up, after a quarter of an hour. And Open MPI's launcher, which
sees a connection close, ends the job but may do so with status 0. No option of the MPIs was found that changes either.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from mpi_spp.launch.completion_marker import Sieve
from mpi_spp.launch.leftovers import Leftovers
from mpi_spp.system.limits import memory_kills

_PATIENCE_SECONDS = 20.0  # launchers usually end a tenth of a second after their ranks
_LOOKS = 4  # in that time
_SECONDS_TO_CLEAN_UP = 3.0
_SECONDS_TO_READ = 2.0  # what the launcher said last; an ssh that outlives it keeps the pipe open
_ONLY_RANKS_HAVE = (b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
_PASSED_ON = {
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTSTP, signal.SIGCONT,
}  # fmt: skip
_SECONDS_BETWEEN_LOOKS = 0.05
_OF_SHELLS: dict[int, int] = {signal.SIGTSTP: signal.SIGSTOP, signal.SIGCONT: signal.SIGCONT}  # what ranks get
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_HOST_WAITED_FOR = "the ranks on this host have ended, and mpirun still waits for another one; ending it"
_BAD_INPUT = 2  # status of ranks that have said so
_NO_MEMORY = (
    "Linux has ended a process here for want of memory, most likely a rank; `mpi-spp doctor --model` tells what one"
    " needs, and --max-memory refuses what does not fit"
)
_STOPPED = "mpirun (process {0}) is stopped, and waits for `kill -CONT {0}`; `kill -KILL {0}` ends the job"
_NO_SIGN = "mpirun ended, but rank 0 did not say that its work is done; a host may have gone down (see above)"


def run_guarded(
    argv: Sequence[str],
    environment: Mapping[str, str],
    sign: str,
    may_lose_host: bool,
    patience: float = _PATIENCE_SECONDS,
    is_server: bool = False,
) -> int:
    """Run the launcher and return its status, or in place of 0 the one that rank 0 told (completion_marker.py).

    Where a host may be lost it is 1 when rank 0 told none.

    It is ended when it awaits a host for `patience` seconds in vain: its ranks on this host have come and gone, and an
    ssh of its own to another host has not. Signals to this process are passed on; but the first that would end a
    server's ranks asks them to finish what they are at (SIGUSR1), since launchers give ranks a second to end. Raises
    OSError when the launcher cannot be started.
    """
    ignored = {number for number in _PASSED_ON if signal.getsignal(number) == signal.SIG_IGN}  # by nohup, for one
    awaited = {signal.SIGCHLD} | _PASSED_ON - ignored
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def prepare() -> None:
        """In the launcher, before it is one: whoever kills this process means the job."""
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    # In a session of its own it gets each signal from here alone, once: of two, launchers leave ranks behind.
    launcher = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=prepare,
    )
    leftovers, killed_before = Leftovers(environment), memory_kills()
    sieve = Sieve(sign)
    assert launcher.stderr is not None
    reader = threading.Thread(target=_hand_on, args=(launcher.stderr, sieve), daemon=True)
    reader.start()
    _attend(launcher, awaited, patience, leftovers, is_server)
    reader.join(_SECONDS_TO_READ)
    if launcher.returncode == 0 and sieve.status is None and may_lose_host:
        _say(_NO_SIGN)
        return 1
    if launcher.returncode == 0:
        return sieve.status or 0
    return _status(launcher, killed_before)


def _status(launcher: "subprocess.Popen[bytes]", killed_before: int) -> int:
    if launcher.returncode not in (0, _BAD_INPUT) and memory_kills() > killed_before:
        _say(_NO_MEMORY)
    return launcher.returncode if launcher.returncode >= 0 else 128 - launcher.returncode  # as shells tell of signals


def _hand_on(stderr: IO[bytes], sieve: Sieve) -> None:
    """What the launcher and the ranks say, less the sign."""
    while data := os.read(stderr.fileno(), 1 << 16):
        _write(sieve.sift(data))
    _write(sieve.rest())


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:  # nobody reads it; the job goes on
            return


def _say(line: str, sort: str = "error: ") -> None:
    _write(f"mpi-spp: {sort}{line}\n".encode())


def _attend(
    launcher: "subprocess.Popen[bytes]",
    awaited: set[signal.Signals],
    patience: float,
    leftovers: Leftovers,
    may_finish: bool,
) -> None:
    """Return when the launcher has ended, and after one that was killed what belongs to it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # its ranks are this process's when it is gone
    had_ranks, looks, told_stopped = False, 0, False
    while launcher.poll() is None:
        received = signal.sigtimedwait(awaited, patience / _LOOKS)
        if received is not None and may_finish and received.si_signo in (signal.SIGTERM, signal.SIGINT):
            may_finish = False
            _send(signal.SIGUSR1, [process for process in _descendants(os.getpid()) if _is_rank(process)])
            continue
        if received is not None:
            _pass_on(received.si_signo, launcher)
            continue
        if _is_stopped(launcher.pid) and not told_stopped:
            _say(_STOPPED.format(launcher.pid), "")
            told_stopped = True
        others = _note_all(leftovers)
        has_ranks = any(_is_rank(process) for process in others)
        had_ranks = had_ranks or has_ranks
        # Without an ssh it may be output that nobody takes which keeps it.
        awaits_host = had_ranks and not has_ranks and any(_is_ssh(process) for process in others)
        looks = looks + 1 if awaits_host else 0
        if looks > _LOOKS:
            _say(_HOST_WAITED_FOR)
            _end(launcher)
    if launcher.returncode < 0:
        leftovers.note(launcher.pid)
        _end_ranks(leftovers, patience / _LOOKS)
        leftovers.remove()


def _note_all(leftovers: Leftovers) -> list[int]:
    """All processes of the job on this host, after a look at what they have."""
    found = list(_descendants(os.getpid()))
    for process in found:
        leftovers.note(process)
    return found


def _end_ranks(leftovers: Leftovers, seconds: float) -> None:
    """Ranks end by themselves when their launcher is gone; who does not is made to."""
    until = time.monotonic() + seconds
    while ranks := [process for process in _note_all(leftovers) if _is_rank(process)]:
        if time.monotonic() > until:
            _send(signal.SIGKILL, ranks)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        _bury()


def _bury() -> None:
    """Take note of the ends of children that were the launcher's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _pass_on(number: int, launcher: "subprocess.Popen[bytes]") -> None:
    if number == signal.SIGCHLD:
        return
    launcher.send_signal(number)
    if number in _OF_SHELLS:  # MPICH's launcher hands neither on
        _send(_OF_SHELLS[number], [process for process in _descendants(os.getpid()) if _is_rank(process)])
    if number == signal.SIGTSTP:
        os.kill(os.getpid(), signal.SIGSTOP)  # until someone says SIGCONT, which is passed on next


def _end(launcher: "subprocess.Popen[bytes]") -> None:
    """End it, if need be by force, and what it has started: an ssh to a lost host would stay."""
    others = list(_descendants(launcher.pid))
    launcher.terminate()
    try:
        launcher.wait(_SECONDS_TO_CLEAN_UP)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()
    _send(signal.SIGKILL, others)


def _send(number: int, processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _descendants(process: int) -> Iterator[int]:
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, _read(listed).split()):
            yield child
            yield from _descendants(child)


def _is_stopped(process: int) -> bool:
    """Whether somebody has stopped it: not we, who are stopped then ourselves."""
    return _read(Path(f"/proc/{process}/stat")).rpartition(b")")[2].split()[:1] == [b"T"]


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
