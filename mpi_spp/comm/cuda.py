"""Whether the MPI library can read and write GPU memory. A wrong "yes" crashes, so doubt means "no"."""

import ctypes
import os
from collections.abc import Mapping

from mpi4py import MPI

# What vendors set to switch their CUDA support on: Cray, MVAPICH2, Intel MPI.
_VENDOR_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA", "I_MPI_OFFLOAD")


def is_cuda_aware(choice: str, comm: MPI.Comm, environment: Mapping[str, str] = os.environ) -> bool:
    """Resolve `--cuda-aware auto|yes|no`: the first source that knows decides.

    Sources: MPI 4.1's memory allocation kinds; `MPIX_Query_cuda_support` of Open MPI and its relatives; the switches
    of other vendors. Nothing found is a no.
    """
    if choice != "auto":
        return choice == "yes"
    answers = (_allocation_kinds(comm), _library_query(), _vendor_switch(environment))
    return next((answer for answer in answers if answer is not None), False)


def _allocation_kinds(comm: MPI.Comm) -> bool | None:
    """True when the library lists CUDA memory; a list without it does not mean no: older kinds are not listed."""
    kinds = comm.Get_info().get("mpi_memory_alloc_kinds") or ""
    return True if any(kind.split(":")[0] == "cuda" for kind in kinds.split(",")) else None


def _library_query() -> bool | None:
    """What the loaded library itself says, where it has the query."""
    try:
        query = ctypes.CDLL(None).MPIX_Query_cuda_support
    except AttributeError:
        return None
    query.restype = ctypes.c_int
    return bool(query())


def _vendor_switch(environment: Mapping[str, str]) -> bool | None:
    return True if any(environment.get(name, "0") not in ("", "0") for name in _VENDOR_SWITCHES) else None
