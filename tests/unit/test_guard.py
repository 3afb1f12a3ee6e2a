"""A launcher that outlives its ranks, since it awaits a lost host, is ended; any other is left alone."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpi_spp.launch.guard import guard_this_process

ROOT = Path(__file__).parents[2]
PATIENCE = 0.4
RANK = "OMPI_COMM_WORLD_RANK=0 sleep"

Launch = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Runs a process that becomes a script, with a guard. In the script `ssh` is another name of `sleep`."""
    shutil.copy(str(shutil.which("sleep")), tmp_path / "ssh")
    variables = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        become = f"import os; from mpi_spp.launch.guard import guard_this_process; guard_this_process({PATIENCE})"
        program = [sys.executable, "-c", f"{become}; os.execvp('sh', ['sh', '-c', {script!r}])"]
        return subprocess.run(program, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=20)

    return run


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_a_launcher_that_awaits_a_lost_host_is_ended(launch: Launch, stubborn: str) -> None:
    ended = launch(f"{stubborn} {RANK} 0.3 & ssh 60 & echo started; wait; exit 5")
    assert (ended.returncode, ended.stdout) == (-9 if stubborn else -15, "started\n")
    assert ended.stderr.count("mpi-spp: error: the ranks on this host have ended") == 1


@pytest.mark.parametrize(
    "script",
    [
        f"PMI_RANK=3 sleep 1.5 & ssh 1.5 & {RANK} 0.1; wait; exit 4",  # a rank still works
        f"{RANK} 0.3; sleep 1.5; exit 4",  # no ssh: it may wait for whoever reads its output
        "ssh 1.5; exit 4",  # no rank here
    ],
)
def test_any_other_launcher_is_left_alone(launch: Launch, script: str) -> None:
    began = time.monotonic()
    ended = launch(script)
    assert (ended.returncode, ended.stderr) == (4, "")
    assert time.monotonic() - began < 5  # nobody waits for the guard


def test_a_kernel_without_handles_of_processes_has_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on clusters with an older system: ranks start all the same."""

    def refuse(process: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a guard that cannot see the launcher end"))
    guard_this_process()
    monkeypatch.delattr(os, "pidfd_open")
    guard_this_process()
