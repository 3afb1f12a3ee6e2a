"""This machine's processor: its name, and its instructions, or those of a lesser one that the program believes in."""

import ctypes
import functools
import os
import platform
from collections.abc import Sequence
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.system.lesser_cpu import LEVELS, VARIABLE

# Linux's names of the instruction sets that matter to matrix products, the oldest first.
_OF_X86 = (
    *("sse2", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_ne_convert"),
    *("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
)
_WITHOUT_AVX512 = ("avx_vnni", "avx_ne_convert")  # of processors that have no AVX-512, and of its newest ones
# ARM's processors are asked by the auxiliary vector (asm/hwcap.h): bits of AT_HWCAP and of AT_HWCAP2.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_OF_ARM = {"fp": 0, "asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22, "asimdfhm": 23}
_OF_ARM_TOO = {"sve2": 1, "i8mm": 13, "bf16": 14}
_IN_OTHERS = {"sse2", "sse4_2", "avx", "f16c", "fma", "avx512vl", "avx512bw", "avx512dq", "amx_tile", "fp", "fphp"}


def name() -> str:
    """Return what the system calls the processor, or the board where it names that alone."""
    for path, start in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                line = next(line for line in file if line.startswith(start))
            return line.split(":", 1)[-1].strip(" \t\n\0")
        except (OSError, StopIteration):
            continue
    return platform.processor() or platform.machine()


@functools.cache
def features() -> frozenset[str]:
    """Return Linux's names of the instruction sets that may be used here; empty where the system does not tell.

    With MPI_SPP_CPU these are at most those of that lesser processor.
    """
    found = _flags() | _hwcaps()
    level = believed()
    if level is None or not found.intersection(_OF_X86):
        return found
    newest, _ = LEVELS[level]
    older = _OF_X86[: _OF_X86.index(newest) + 1]
    return found.intersection(older).difference(_WITHOUT_AVX512 if "avx512f" in older else ())


def instruction_sets() -> list[str]:
    """Return those of `features` that decide over the speed of products, the oldest first."""
    return [one for one in (*_OF_X86, *_OF_ARM, *_OF_ARM_TOO) if one in features()]


def shortened(sets: Sequence[str]) -> str:
    """Return instruction sets for a line of text: what another one includes is left out."""
    return " ".join(one for one in sets if one not in _IN_OTHERS) or " ".join(sets) or "no known instruction set"


def believed() -> str | None:
    """Return the lesser processor that MPI_SPP_CPU names; None: the real one. Raises UserError for another word."""
    level = os.environ.get(VARIABLE) or None
    if level is not None and level not in LEVELS:
        raise UserError(f"{VARIABLE}: {level!r} is unknown; choose one of {', '.join(LEVELS)}, or unset it")
    return level


def facts() -> dict[str, Any]:
    """Return what a report tells of the processor, as plain values."""
    return {"cpu": name(), "instruction_sets": instruction_sets(), "believed_cpu": believed()}


def _flags() -> frozenset[str]:
    """x86: the names that the kernel gives, of what it has enabled too."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split()[2:])
    except OSError:
        return frozenset()


def _hwcaps() -> frozenset[str]:
    """ARM: its cpuinfo has no flags in every kernel, the auxiliary vector has them in all."""
    if platform.machine() != "aarch64":
        return frozenset()
    try:
        ask = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError):
        return frozenset()
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return hwcap_names(ask(_AT_HWCAP), ask(_AT_HWCAP2))


def hwcap_names(first: int, second: int) -> frozenset[str]:
    """Return the names of ARM's bits in AT_HWCAP and AT_HWCAP2."""
    found = [name for name, bit in _OF_ARM.items() if first >> bit & 1]
    return frozenset(found + [name for name, bit in _OF_ARM_TOO.items() if second >> bit & 1])
