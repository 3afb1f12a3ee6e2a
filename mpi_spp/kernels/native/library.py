"""Compiles the native kernels, once for sources, instructions and a dtype, and loads them where the CPU has these."""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mpi_spp.kernels.native.compiler import compiled
from mpi_spp.system import cpu

# Options of the compiler by what the CPU must have, as Linux calls it.
_AVX2 = {name: f"-m{name}" for name in ("avx2", "fma", "f16c")}
_AVX512 = _AVX2 | {name: f"-m{name}" for name in ("avx512f", "avx512bw", "avx512vl", "avx512dq")}
_AVX_VNNI, _AVX512_VNNI = {"avx_vnni": "-mavxvnni"}, {"avx512_vnni": "-mavx512vnni"}
_BFLOAT16 = {"avx512_bf16": "-mavx512bf16"}
_TILES = {"amx_tile": "-mamx-tile", "amx_bf16": "-mamx-bf16", "amx_int8": "-mamx-int8"}
# ARM. Instructions stay in our order until registers are given: in gcc's own they would need more than there are.
_NEON = {"asimd": "-fno-schedule-insns"}
_DOTPROD = _NEON | {"asimddp": "-march=armv8.2-a+dotprod"}
_I8MM = _DOTPROD | {"i8mm": "-march=armv8.2-a+dotprod+i8mm"}
# The best first, by the newest instruction set in each. The compiling CPU does not matter, and what is compiled is
# loaded only where the CPU has all of it: hosts of a cluster may share a home directory.
VARIANTS = {
    "amx": _AVX512 | _AVX512_VNNI | _BFLOAT16 | _TILES,
    "avx512bf16": _AVX512 | _AVX512_VNNI | _BFLOAT16,
    "avx512vnni": _AVX512 | _AVX512_VNNI,
    "avx512": _AVX512,
    "avxvnni": _AVX2 | _AVX_VNNI,
    "avx2": _AVX2,
    "neon-bf16": _I8MM | {"bf16": "-march=armv8.2-a+dotprod+i8mm+bf16"},
    "neon-i8mm": _I8MM,
    "neon-dotprod": _DOTPROD,
    "neon": _NEON,
}
_FLAGS = ("-O3", "-fPIC", "-std=gnu11")
_ELEMENTS = {
    torch.bfloat16: (),
    torch.float32: ("-DFLOAT32_ELEMENTS",),
    torch.float16: ("-DFLOAT16_ELEMENTS",),
}
OF_BFLOAT16 = ("amx", "avx512bf16", "neon-bf16")  # whose own instructions multiply bfloat16 and nothing else
_DIGEST_BYTES = hashlib.sha256().digest_size  # behind the end of a library: to load a torn one may end the process
_HERE = Path(__file__).parent

_pointer, _count = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, list[Any]] = {
    "allow_tiles": [],
    "compiler": [],
    "linear": [_pointer] * 3 + [_count, ctypes.c_int],
    "pack_panels": [_pointer] * 2 + [_count] * 2 + [ctypes.c_int],
    "rms_norm": [_pointer] * 3 + [_count] * 2 + [ctypes.c_float],
    "rotate_and_store": [_pointer] * 3 + [_count, _pointer],
    "attend": [_pointer] * 3 + [_count, _pointer],
    "attend_part": [_pointer] * 3 + [_count] * 3 + [_pointer] * 2,
    "take_keys": [_pointer] * 2 + [_count] * 6,
    "put_keys": [_pointer] * 2 + [_count] * 6,
    "run_layers": [_pointer, _count, _pointer, _pointer, ctypes.c_int, ctypes.c_int],
}


def runnable(dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """The variants for weights of a dtype that this CPU has the instructions for, the best first.

    A compiler may be missing.
    """
    names = [name for name, needed in VARIANTS.items() if cpu.features().issuperset(needed)]
    return [name for name in names if dtype in _ELEMENTS and (dtype == torch.bfloat16 or name not in OF_BFLOAT16)]


def is_kept(name: str, directory: Path, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether a variant's kernels for a dtype lie in `directory`, and whole."""
    return _is_whole(_place(directory, flags_of(name, dtype)))


@functools.cache
def load(name: str, directory: Path, dtype: torch.dtype = torch.bfloat16) -> ctypes.CDLL:
    """A variant's kernels for a dtype, compiled into `directory` if they are not there yet.

    Raises NoKernels where that fails.
    """
    missing = set(VARIANTS[name]) - cpu.features()
    if missing:
        raise NoKernels(f"this CPU has no {', '.join(sorted(missing))}")
    try:
        ctypes.CDLL(_openmp_of_torch(), mode=ctypes.RTLD_GLOBAL)  # one team of threads for torch and for us
        library = ctypes.CDLL(str(_compiled(directory, flags_of(name, dtype))))
        for function, types in _SIGNATURES.items():
            getattr(library, function).argtypes = types
        library.compiler.restype = ctypes.c_char_p
        if library.allow_tiles():
            raise OSError("this Linux does not give the tile registers")
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        raise NoKernels(str(error)) from None
    return library


def compiler_of(library: ctypes.CDLL) -> str:
    """The name and version of the compiler that made a library."""
    return str(library.compiler().decode())


class NoKernels(Exception):
    """Why a variant cannot be had here."""


@functools.cache
def sources_digest() -> str:
    """Changes with the kernels."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(_HERE.glob("*.[ch]")))).hexdigest()[:16]


def _openmp_of_torch() -> str:
    torch.get_num_threads()  # loads it
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths = [line.split(maxsplit=5)[-1].strip() for line in file]
    for name in ("libgomp", "libiomp5", "libomp"):
        for path in paths:
            if os.path.basename(path).startswith(name):
                return path
    raise OSError("this build of torch has no OpenMP")


def flags_of(name: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The compiler's options for a variant."""
    return (*_FLAGS, *_ELEMENTS[dtype], *VARIANTS[name].values())


def _place(directory: Path, flags: Sequence[str]) -> Path:
    key = hashlib.sha256(" ".join([*flags, sources_digest()]).encode()).hexdigest()[:16]
    return directory / f"native-{key}.so"


def _compiled(directory: Path, flags: Sequence[str]) -> Path:
    """The shared library in `directory`; many processes may make it at the same time."""
    library = _place(directory, flags)
    if not _is_whole(library):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = compiled(sorted(_HERE.glob("*.c")), flags, Path(scratch))
            with made.open("r+b") as file:
                digest = hashlib.sha256(file.read()).digest()
                file.write(digest)
            os.replace(made, library)
    return library


def _is_whole(library: Path) -> bool:
    """Whether a library ends with the digest of all that is before it."""
    try:
        content = library.read_bytes() if library.is_file() else b""
    except OSError:
        return False
    return content[-_DIGEST_BYTES:] == hashlib.sha256(content[:-_DIGEST_BYTES]).digest()
