"""Compiles the native kernels, once for a set of sources, and loads them where the CPU can run them."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma", "f16c")
# The CPU of the compiling machine does not matter, so that hosts of a cluster may share a home directory.
_FLAGS = ["-O3", "-fPIC", "-fopenmp", "-std=gnu11", *(f"-m{name.replace('_', '')}" for name in _FEATURES)]
_COMPILERS = ("gcc", "cc")
_SECONDS = 120

_pointer, _count = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "linear": [_pointer] * 3 + [_count, ctypes.c_int],
    "pack_panels": [_pointer] * 2 + [_count] * 2 + [ctypes.c_int],
    "rms_norm": [_pointer] * 3 + [_count] * 2 + [ctypes.c_float],
    "rotate_and_store": [_pointer] * 5 + [ctypes.c_float] * 2 + [_pointer] * 2 + [_count] * 5,
    "attend": [_pointer] * 3 + [_count] * 6,
    "attend_part": [_pointer] * 4 + [_count] * 8,
    "take_keys": [_pointer] * 2 + [_count] * 6,
    "put_keys": [_pointer] * 2 + [_count] * 6,
    "run_layer": [_pointer] * 5 + [_count] * 3,
    "run_attention": [_pointer] * 5 + [_count] * 3 + [ctypes.c_int],
    "run_mlp": [_pointer] * 2 + [_count] + [ctypes.c_int],
}


@functools.cache
def load(directory: Path) -> ctypes.CDLL | None:
    """The kernels, compiled into `directory` if they are not there yet; None where they cannot run, with a log line."""
    missing = [name for name in _FEATURES if name not in cpu_features()]
    if missing:
        log.info("no native kernels: this CPU has no %s", ", ".join(missing))
        return None
    try:
        ctypes.CDLL(_openmp_of_torch(), mode=ctypes.RTLD_GLOBAL)  # one team of threads for torch and for us
        library = ctypes.CDLL(str(_compiled(directory)))
        for name, types in _SIGNATURES.items():
            getattr(library, name).argtypes = types
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.warning("no native kernels, torch's own are used: %s", error)
        return None
    return library


def cpu_features() -> set[str]:
    """The names that Linux gives to this CPU's extensions; none elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


def _openmp_of_torch() -> str:
    torch.get_num_threads()  # loads it
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths = [line.split(maxsplit=5)[-1].strip() for line in file]
    for name in ("libgomp", "libiomp5", "libomp"):
        for path in paths:
            if os.path.basename(path).startswith(name):
                return path
    raise OSError("this build of torch has no OpenMP")


def _compiled(directory: Path) -> Path:
    """The shared library in `directory`; many processes may make it at the same time."""
    here = Path(__file__).parent
    texts = [path.read_bytes() for path in sorted(here.glob("*.[ch]"))]
    key = hashlib.sha256(b"\0".join([" ".join(_FLAGS).encode(), *texts])).hexdigest()[:16]
    library = directory / f"native-{key}.so"
    if not library.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            os.replace(_compile(sorted(here.glob("*.c")), Path(scratch)), library)
    return library


def _compile(sources: list[Path], scratch: Path) -> Path:
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C compiler ({' or '.join(_COMPILERS)}) on the PATH")
    objects = [scratch / f"{source.stem}.o" for source in sources]
    library = scratch / "native.so"
    commands = [
        [compiler, *_FLAGS, "-c", source, "-o", object_] for source, object_ in zip(sources, objects, strict=True)
    ]
    # Linked without OpenMP: its symbols are then those of the library that torch has loaded.
    for command in [*commands, [compiler, "-shared", *objects, "-lm", "-o", library]]:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            raise OSError(f"{compiler} failed: {done.stderr.strip().splitlines()[:1]}")
    return library
