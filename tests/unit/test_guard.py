"""A launcher that outlives its ranks is ended; one that does not, or that has none here, is left alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 0.4
RANK = "OMPI_COMM_WORLD_RANK=0 sleep"


def launch(script: str) -> subprocess.CompletedProcess[str]:
    """A process that becomes this script, with a guard."""
    become = f"import os; from mpi_spp.launch.guard import guard_this_process; guard_this_process({PATIENCE})"
    program = f"{become}; os.execvp('sh', ['sh', '-c', {script!r}])"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_a_launcher_without_ranks_is_ended(stubborn: str) -> None:
    ended = launch(f"{stubborn} {RANK} 0.3 & echo started; sleep 60; sleep 60")
    assert (ended.returncode, ended.stdout) == (-9 if stubborn else -15, "started\n")
    assert ended.stderr.count("mpi-spp: error: the ranks on this host have ended") == 1


def test_ranks_are_waited_for() -> None:
    ended = launch(f"(PMI_RANK=3 sleep 2) & {RANK} 0.1; wait; exit 3")
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_launcher_that_never_had_ranks_here_goes_on() -> None:
    began = time.monotonic()
    ended = launch("sleep 1.5; exit 4")
    assert (ended.returncode, ended.stderr) == (4, "")
    assert time.monotonic() - began < 4  # nobody waits for the guard
