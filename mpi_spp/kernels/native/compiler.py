"""Compiles C into a shared library, with the machine's compiler or with the one that comes as the package `ziglang`."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COMPILERS = ("gcc", "cc", "clang")
_ZIG = "ziglang"  # a package of Python that holds a clang, and the C library's headers
_MISSING = (
    f"no C compiler ({', '.join(_COMPILERS)}) on the PATH; install one, or name it in CC,"
    " or take the one that `pip install 'mpi-spp[compiler]'` brings along"
)
_SECONDS = 120


def compilers() -> list[str]:
    """Return the names of the C compilers that are here, the one to take first."""
    named = os.environ.get("CC")
    if named:
        return [named]
    packaged = [_ZIG] if importlib.util.find_spec(_ZIG) else []
    return [name for name in _COMPILERS if shutil.which(name)] + packaged


def compiled(sources: Sequence[Path], flags: Sequence[str], scratch: Path) -> Path:
    """Make a library of sources in the folder `scratch`. Raises OSError or SubprocessError where that fails."""
    name = next(iter(compilers()), None)
    if name is None:
        raise OSError(_MISSING)
    command, flags = _command_of(name), _flags_for(name, flags)
    objects = [scratch / f"{source.stem}.o" for source in sources]
    library = scratch / "native.so"
    steps: list[list[Any]] = [
        [*command, *flags, "-c", source, "-o", made] for source, made in zip(sources, objects, strict=True)
    ]
    # Linked without OpenMP: its symbols are then those of the library that torch has loaded.
    for step in [*steps, [*command, "-shared", *objects, "-lm", "-o", library]]:
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": _SECONDS, "cwd": scratch}
        done = subprocess.run([*map(str, step)], check=False, **settings)
        if done.returncode:
            raise OSError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[:1]}")
    return library


def _command_of(name: str) -> list[str]:
    if name == _ZIG:  # which by itself would compile for this very CPU
        return [sys.executable, "-m", _ZIG, "cc", "-target", f"{platform.machine()}-linux-gnu"]
    return [os.path.abspath(shutil.which(name) or name)]


def _flags_for(name: str, flags: Sequence[str]) -> list[str]:
    """Return the flags as a compiler has them: zig knows ARM's architectures by their extensions alone."""
    if name != _ZIG:
        return list(flags)
    return [flag.replace("-march=armv8.2-a+", "-mcpu=generic+") for flag in flags]
