"""Ending all that a process has started, wherever it has moved: launchers put their ranks into groups of their own."""

import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_END = 10.0


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends, so that none gets lost (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """SIGTERM for all processes below this one, then SIGKILL for those that are still there and their children."""
    deadline = time.monotonic() + _SECONDS_TO_END
    _signal_all(signal.SIGTERM)
    while _descendants() and time.monotonic() < deadline:
        time.sleep(0.05)
    while _descendants():
        _signal_all(signal.SIGKILL)
        time.sleep(0.05)


def _signal_all(number: signal.Signals) -> None:
    for pid in _descendants():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _descendants() -> list[int]:
    """The living processes below this one; the dead among its children are buried."""
    _bury_children()
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        state, parent = _state_and_parent(directory)
        if state not in ("Z", ""):
            children.setdefault(parent, []).append(int(directory.name))
    found = [*children.get(os.getpid(), [])]
    for pid in found:
        found += children.get(pid, [])
    return found


def _state_and_parent(directory: Path) -> tuple[str, int]:
    try:
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def _bury_children() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    except ChildProcessError:
        return
