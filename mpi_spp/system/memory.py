"""The memory of this process."""

import contextlib
import ctypes
import os
import resource
from pathlib import Path

import torch


def peak_bytes() -> int:
    """The most bytes that were ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def peak_gpu_bytes(device: torch.device) -> int:
    """The same of tensors in the memory of a GPU; 0 for the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def resident_bytes() -> int:
    """What is resident now, without the gaps that freed memory leaves in the heap: those would be filled later."""
    with contextlib.suppress(AttributeError, OSError):  # the GNU C library has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return peak_bytes()
