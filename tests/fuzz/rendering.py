"""The process that renders chat templates, started once for many cases: its start takes longer than a case."""

import os
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any


class Renderer:
    """Belongs to the process that makes copies of itself; the copies ask it in place of starting one each."""

    def __init__(self) -> None:
        from mpi_spp.model.text import template

        self._shared: Any = template._PROCESS
        self._shared._process = None  # that of the process that this one is a copy of
        self._process: Any = None

    def ready(self) -> None:
        """Let it wait for questions, whatever the case before did to it."""
        if self._process is not None and _status(self._process.pid) is None:
            return
        self.end()
        self._process = self._shared._started()
        self._process.poll = partial(_status, self._process.pid)
        self._process.wait = partial(_ended, self._process.pid)

    @staticmethod
    def lend() -> None:
        """Said by a copy: what it was given is its own, to ask and not to start anew."""
        from mpi_spp.model.text import template

        template._PROCESS._owner = os.getpid()

    def end(self) -> None:
        """Take it away."""
        if self._process is not None:
            self._process.kill()
            subprocess.Popen.wait(self._process)
            self._process.stdin.close()
            self._process.stdout.close()
        self._process = self._shared._process = None


def _ended(process: int, seconds: float) -> int | None:
    """As `Popen.wait`: one that has closed its output may take a moment more on a busy machine."""
    until = time.monotonic() + seconds
    while (status := _status(process)) is None and time.monotonic() < until:
        time.sleep(0.01)
    return status


def _status(process: int) -> int | None:
    """As `Popen.poll`, asked by a process that is not the parent."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return os.waitstatus_to_exitcode(int(fields[-1])) if fields[0] == "Z" else None
