"""Standard output and error that are closed, full, or left by their reader: see mpi_spp/cli/_streams.py."""

import subprocess
import sys

import pytest

_ENDED = "mpi-spp: error: standard output cannot be written ("


@pytest.mark.parametrize(
    "line, status, stdout, stderr",
    [
        ("--version >&-", 2, "", _ENDED + "Bad file descriptor)\n"),
        ("--version >/dev/full", 2, "", _ENDED + "No space left on device)\n"),
        ("--version <&- >&- 2>&-", 2, "", ""),
        ("--help | true", 141, "", ""),
        ("--nothing 2>&-", 2, "", ""),
        ("--nothing 2>/dev/full", 2, "", ""),
        ("--version <&- 2>&-", 0, "mpi-spp, version", ""),
        ("bench", 0, "Usage: mpi-spp bench [OPTIONS] COMMAND", ""),
    ],
)
def test_streams(line: str, status: int, stdout: str, stderr: str) -> None:
    """The status is that of mpi-spp, also before a pipe."""
    shell = f"set -o pipefail; {sys.executable} -m mpi_spp {line}"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (status, stderr)
    assert ended.stdout.startswith(stdout) and (stdout or not ended.stdout)
