"""Which software this process runs."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mpi_spp
from mpi_spp.errors import UserError

NOT_THERE = "not installed"
_PACKAGES = ("mpi4py", "torch", "transformers", "safetensors")
_SOURCES = (".py", ".c", ".h")


def versions_here() -> dict[str, str]:
    """Versions by name, found without loading the packages; the MPI library is loaded but not started."""
    own = f"{mpi_spp.__version__} (source {_digest_of_source()})"
    packages = {name: _version(name) for name in _PACKAGES}
    return {"Python": platform.python_version(), "MPI": _mpi_library(), **packages, "mpi-spp": own}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_THERE


def _mpi_library() -> str:
    try:
        from mpi_spp.comm.world import library_version
    except (ImportError, UserError):
        return NOT_THERE
    return library_version()


def _digest_of_source() -> str:
    """Checkouts of one version may differ."""
    root, digest = Path(mpi_spp.__file__).parent, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in _SOURCES):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]
