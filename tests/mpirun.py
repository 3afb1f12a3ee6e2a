"""Starts `mpi-spp` on ranks as a user does, with the mpirun of this Python's environment, and never waits for ever."""

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi_spp.launch.launcher import Launcher, find_launcher

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 45.0  # for machines that are busy; bad input takes 2 to 6 on two free cores
_SECONDS_TO_CLEAN_UP = 5.0
# What launchers add when a rank ends with another status than 0, and what Open MPI's event loop says when a rank has
# closed its output already.
_EPILOGUES = (
    r"\[warn\] Epoll [^\n]*Bad file descriptor\n",
    r"-{60,}\n(?:prterun|prun|mpirun|Primary job)\b.*?-{60,}\n",  # Open MPI
    r"-{60,}\nSorry!  You were supposed to get help about:\n    no-pmix-but\n.*?-{60,}\n",  # its wheel, without mpirun
    r"\n?={60,}\n=   BAD TERMINATION .*?={60,}\n(?:YOUR APPLICATION TERMINATED.*\n(?:.*\n)?)?",  # MPICH
)


@dataclass(frozen=True)
class Ended:
    """What came of a run. `stderr` is without the launcher's own words."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def error_lines(self) -> list[str]:
        """Lines on standard error that are not empty, but for PMIx's own when a rank leaves before others have come."""
        lines = (line for line in self.stderr.splitlines() if line.strip())
        return [line for line in lines if "PMIX ERROR: PMIX_ERR_UNREACH" not in line]


def mpi_spp(*arguments: str, python: str = sys.executable) -> list[str]:
    """The command of one rank."""
    return [python, "-m", "mpi_spp", *arguments]


def mpirun(num_ranks: int, command: Sequence[str], launcher: Launcher | None = None) -> list[str]:
    """The plain line of the documents."""
    launcher = launcher or find_launcher()
    return [*launcher.command, *_options(launcher), "-n", str(num_ranks), *command]


def mpirun_different(*commands: Sequence[str]) -> list[str]:
    """One rank for each command."""
    parts = [["-n", "1", *command] for command in commands]
    launcher = find_launcher()
    line = [*launcher.command, *_options(launcher), *parts[0]]
    return line + [word for part in parts[1:] for word in (":", *part)]


def start(argv: list[str], tree: Path = ROOT, variables: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """A running process with pipes; `tree` is the source of the package. Use `finish`, or `end` in a finally."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, env=environment(tree) | dict(variables or {}), **({"cwd": tree} | pipes | settings))


def finish(process: Any, began: float, timeout: float = TIMEOUT_SECONDS) -> Ended:
    """Wait for the end of a process that `start` gave."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        end(process)
    return Ended(process.returncode, stdout.decode(), own_words(stderr.decode()), time.monotonic() - began)


def run(argv: list[str], timeout: float = TIMEOUT_SECONDS, **settings: Any) -> Ended:
    """Start and finish."""
    return finish(start(argv, **settings), time.monotonic(), timeout)


def read_some(process: Any, stream: str = "stdout", timeout: float = TIMEOUT_SECONDS) -> bytes:
    """What comes next on standard output, or `stderr`; empty at its end."""
    pipe = getattr(process, stream)
    ready, _, _ = select.select([pipe], [], [], timeout)
    assert ready, f"nothing came within {timeout} s"
    return os.read(pipe.fileno(), 1 << 16)


def end(process: Any) -> None:
    """Leave nothing running: a launcher ends its ranks when it is asked to end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_CLEAN_UP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_SECONDS_TO_CLEAN_UP)


def processes(marker: Path) -> Iterator[Path]:
    """The ranks that have this path in their command, as their directories in /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if os.fsencode(marker) in words and b"-n" not in words:  # the launcher has the number of ranks
            yield process


def pid_of_rank(marker: Path, rank: int) -> int:
    """The process of a rank that has this path in its command."""
    names = {f"OMPI_COMM_WORLD_RANK={rank}".encode(), f"PMI_RANK={rank}".encode()}
    for process in processes(marker):
        with contextlib.suppress(OSError):  # it has ended
            if names.intersection((process / "environ").read_bytes().split(b"\0")):
                return int(process.name)
    raise AssertionError(f"rank {rank} is not running")


def left_running(marker: Path) -> list[str]:
    """Ranks that are still there when they have had a moment to end."""
    deadline = time.monotonic() + 2
    while list(processes(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [process.name for process in processes(marker)]


def environments() -> dict[str, tuple[Launcher, str]]:
    """The launcher and the Python of each environment that has an MPI of its own, beside this one."""
    found = {}
    for prefix in {Path(sys.prefix), *ROOT.glob(".venv*")}:
        if (prefix / "bin" / "mpiexec").exists():
            launcher = find_launcher({}, str(prefix))
            found[launcher.vendor] = (launcher, str(prefix / "bin" / "python"))
    return found


def environment(tree: Path = ROOT) -> dict[str, str]:
    """The tests' own with this package first, without what a launcher or `run.py` set or hides a missing flush."""
    left_out = ("OMPI_", "PMIX_", "PMI_", "PYTHONUNBUFFERED", "MPI_SPP_TEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    allowed = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    hwloc = {"HWLOC_COMPONENTS": "-gl"}
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tree)}
    return kept | dict.fromkeys(allowed, "1") | hwloc | offline


def own_words(stderr: str) -> str:
    """What this package wrote."""
    for epilogue in _EPILOGUES:
        stderr = re.sub(epilogue, "", stderr, flags=re.DOTALL)
    return stderr


def _options(launcher: Launcher) -> list[str]:
    if launcher.vendor != "openmpi":
        return []
    # Open MPI 5 holds standard output back until a line ends, if it is not told to hand it on as it comes.
    return ["--oversubscribe", *(["--output", ":raw"] if launcher.major >= 5 else [])]
