"""Where a process may not read another's memory: large messages take another way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60
LARGE_MESSAGES = """
import numpy
from mpi_spp.comm.components import choose_components
choose_components()
from mpi4py import MPI
comm = MPI.COMM_WORLD
sent, received = numpy.full(1 << 20, comm.rank), numpy.empty(1 << 20, int)
comm.Sendrecv(sent, (comm.rank + 1) % comm.size, recvbuf=received, source=(comm.rank - 1) % comm.size)
assert (received == (comm.rank - 1) % comm.size).all()
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run it where the call is refused, outside whatever job the tests run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PMI_"))}
    argv = [sys.executable, str(ROOT / "tests" / "refuse_cma.py"), sys.executable, "-c", program]
    settings = {"env": kept | {"PYTHONPATH": str(ROOT)}, "cwd": ROOT, "timeout": TIMEOUT_SECONDS}
    return subprocess.run(argv, capture_output=True, text=True, **settings)


def test_large_messages_where_reading_other_memory_is_refused() -> None:
    probe = "from mpi_spp.launch.cma import cma_is_refused; print(cma_is_refused())"
    if python(probe).stdout != "True\n":
        pytest.skip("this machine does not let a process refuse the call")
    start = f"""
import os, sys
from mpi_spp.launch.launcher import find_launcher
from mpi_spp.launch.line import mpirun_line, request_here
argv, extra = mpirun_line(request_here((sys.executable, "-c", {LARGE_MESSAGES!r}), 2), find_launcher())
os.execvpe(argv[0], argv, {{**os.environ, **extra}})
"""
    result = python(start)
    assert result.returncode == 0 and "Read -1" not in result.stderr, result.stderr
