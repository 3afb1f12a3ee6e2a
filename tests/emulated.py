"""The native kernels of another kind of machine: compiled here, and run by an emulator on cases from a file."""

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mpi_spp.kernels.native import library
from mpi_spp.model.loading.hub import cache_directory

CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
MISSING = " and ".join(name for name in (CROSS, EMULATOR) if shutil.which(name) is None)
_SOURCES = Path(library.__file__).parent
_DRIVER = Path(__file__).parent / "native_driver.c"
_MOST_SECONDS = 120


@dataclass(frozen=True)
class Case:
    """A call of a kernel, as native_driver.c reads it; buffers are contiguous tensors, None where there is none."""

    function: str
    integers: Sequence[int]
    buffers: Sequence[torch.Tensor | None]
    floats: Sequence[float] = ()

    def packed(self) -> bytes:
        """What the driver reads of it."""
        counts = (len(self.integers), len(self.floats), len(self.buffers))
        parts = [struct.pack("=16s3q", self.function.encode(), *counts)]
        parts += [struct.pack(f"={counts[0]}q{counts[1]}f", *self.integers, *self.floats)]
        for buffer in self.buffers:
            content = b"" if buffer is None else _bytes_of(buffer)
            parts += [struct.pack("=q", -1 if buffer is None else len(content)), content]
        return b"".join(parts)

    def unpacked(self, results: bytes) -> tuple[list[torch.Tensor | None], bytes]:
        """The buffers after the call, and what is left of the results."""
        after: list[torch.Tensor | None] = []
        for buffer in self.buffers:
            if buffer is None:
                after.append(None)
                continue
            content, results = results[: buffer.nbytes], results[buffer.nbytes :]
            after.append(torch.frombuffer(bytearray(content), dtype=buffer.dtype).view(buffer.shape))
        return after, results


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def driver_for(variant: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The driver with an ARM variant's kernels for a dtype, compiled once for a set of sources."""
    flags = (*library.flags_of(variant, dtype), f"-I{_SOURCES}", "-static")
    return _made([CROSS, *flags, *sorted(_SOURCES.glob("*.c")), _DRIVER, "-lgomp", "-lm"])


def driver_here(variant: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The driver with the kernels of a variant that this CPU can run."""
    loaded = library.load(variant, cache_directory() / "kernels", dtype)._name
    flags = (*library.flags_of(variant, dtype), "-O1", f"-I{_SOURCES}")
    return _made(["gcc", *flags, _DRIVER, loaded, "-lgomp", "-lm"])


def _made(command: Sequence[str | Path]) -> Path:
    words = " ".join([*map(str, command), library.sources_digest(), hashlib.sha256(_DRIVER.read_bytes()).hexdigest()])
    program = cache_directory() / "kernels" / f"driver-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            made = Path(scratch) / "driver"
            subprocess.run([*command, "-o", made], check=True, capture_output=True, timeout=_MOST_SECONDS)
            os.replace(made, program)
    return program


def emulated(driver: Path, cpu: str) -> list[str | Path]:
    """The words that run a driver on a CPU that qemu knows."""
    return [EMULATOR, "-cpu", cpu, driver]


def results_of(command: Sequence[str | Path], cases: Sequence[Case], folder: Path) -> list[list[torch.Tensor | None]]:
    """What a driver makes of cases, on two threads."""
    given, found = folder / "cases", folder / "results"
    given.write_bytes(b"".join(case.packed() for case in cases))
    run_driver([*command, given, found]).check_returncode()
    results, left = [], found.read_bytes()
    for case in cases:
        after, left = case.unpacked(left)
        results.append(after)
    assert not left
    return results


def run_driver(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a driver to its end."""
    settings = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(command, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False, env=settings)
