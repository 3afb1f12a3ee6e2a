"""A launch of which a rank waits for a debugger: Ctrl-C ends it, and the debugger stops that rank."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from debug_client import DebugClient
from mpirun import ROOT, environment

TIMEOUT_SECONDS = 60
LAUNCH = [sys.executable, "-m", "mpi_spp", "launch"]


class Job:
    """A launch of which rank 1 waits for a debugger."""

    def __init__(self, argv: list[str]) -> None:
        self.mark = f"MPI_SPP_TEST_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            argv,
            env={**environment(), name: value, "MPI_SPP_PYTHON": sys.executable},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def port(self) -> int:
        stderr: IO[str] = self.process.stderr  # type: ignore[assignment]
        for line in stderr:
            match = re.match(r"mpi-spp: rank 1 waits for a debugger on 127\.0\.0\.1:(\d+) of ", line)
            if match:
                return int(match[1])
        raise AssertionError("no rank waits")

    def processes(self) -> list[int]:
        """All that were started with this job's mark and still run."""
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and self._is_ours(path)]

    def _is_ours(self, path: Path) -> bool:
        try:
            return self.mark.encode() in (path / "environ").read_bytes()
        except OSError:
            return False

    def end(self) -> None:
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self.process.communicate(timeout=TIMEOUT_SECONDS)


@pytest.fixture
def waiting_job(request: pytest.FixtureRequest) -> Iterator[Job]:
    pytest.importorskip("debugpy")
    job = Job(request.param)
    yield job
    job.end()


RANK_1_WAITS = ["--debug-rank", "1", "--debug-port", "0"]
# The other ranks wait for rank 1, inside MPI.
STUCK = [*LAUNCH, "-np", "3", *RANK_1_WAITS, "--", "generate", "--model", "/no/such/model", "--prompt", "x"]
BIN_DEBUG = [str(ROOT / "bin" / "debug"), "-np", "2", "--rank", "1", "--port", "0", "--", "model", "list"]


@pytest.mark.parametrize("waiting_job", [STUCK], indirect=True)
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_ctrl_c_ends_everything_within_a_second(waiting_job: Job, send: Any) -> None:
    waiting_job.port()
    assert len(waiting_job.processes()) >= 4
    send(waiting_job.process.pid, signal.SIGINT)
    pressed = time.monotonic()
    while waiting_job.processes() and time.monotonic() - pressed < 5:
        time.sleep(0.01)
    assert time.monotonic() - pressed < 1
    _, stderr = waiting_job.process.communicate(timeout=TIMEOUT_SECONDS)
    assert waiting_job.process.returncode != 0
    assert "Traceback" not in stderr


@pytest.mark.parametrize("waiting_job", [BIN_DEBUG], indirect=True)
def test_a_debugger_stops_the_chosen_rank(waiting_job: Job) -> None:
    source = ROOT / "mpi_spp" / "cli" / "__init__.py"
    number = source.read_text().splitlines().index('        commands(prog_name="mpi-spp", standalone_mode=False)') + 1
    client = DebugClient(waiting_job.port())
    client.attach(source, number)
    assert client.stopped_at() == (source, number)
    client.go_on()
    _, stderr = waiting_job.process.communicate(timeout=TIMEOUT_SECONDS)
    assert waiting_job.process.returncode == 0, stderr
