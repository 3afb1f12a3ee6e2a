"""A rank that waits for a debugger before it does anything."""

import importlib.util
import os
import sys
from collections.abc import Mapping

from mpi_spp.comm.environment import DEBUG_RANK, launched_rank
from mpi_spp.errors import UserError

PORT_NAME = "MPI_SPP_DEBUG_PORT"
DEFAULT_PORT = 5678
_NO_DEBUGGER = "debugpy is not installed; get it with `pip install 'mpi-spp[dev]'`"


def debug_variables(rank: int, port: int) -> dict[str, str]:
    """The environment that makes this rank wait."""
    if importlib.util.find_spec("debugpy") is None:
        raise UserError(_NO_DEBUGGER)
    return {DEBUG_RANK: str(rank), PORT_NAME: str(port)}


def wait_for_debugger_if_asked(environment: Mapping[str, str] = os.environ) -> None:
    """Wait until a debugger is attached, if MPI_SPP_DEBUG_RANK is the rank of this process."""
    if environment.get(DEBUG_RANK, "") != str(launched_rank(environment)):
        return
    port = environment.get(PORT_NAME, str(DEFAULT_PORT))
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise UserError(f"{PORT_NAME}: {port!r} is no port; give a number, such as {DEFAULT_PORT}")
    _wait(launched_rank(environment), int(port))


def _wait(rank: int, port: int) -> None:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else it warns of Python's own frozen modules
    try:
        import debugpy
    except ImportError:
        raise UserError(_NO_DEBUGGER) from None
    try:
        # Whoever reaches the port can run code here, so other hosts go through ssh.
        host, port = debugpy.listen(("127.0.0.1", port))
    except (RuntimeError, OSError) as error:
        raise UserError(f"port {port} cannot be opened for the debugger ({error}); choose another") from None
    machine = os.uname().nodename
    print(f"mpi-spp: rank {rank} waits for a debugger on {host}:{port} of {machine}", file=sys.stderr, flush=True)
    debugpy.wait_for_client()
