"""What a launcher, or whoever looks for a fault, tells processes by environment variables; needs no MPI library."""

import os
from collections.abc import Mapping

# First match wins. Open MPI; MPICH, Intel MPI and other PMI-1 launchers; MVAPICH; srun (a job step, not the whole
# allocation).
_RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
_SIZE_NAMES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_DIGITS = 10  # of no count of ranks
DEBUG_RANK = "MPI_SPP_DEBUG_RANK"  # waits for a debugger


def _first_integer(names: tuple[str, ...], environment: Mapping[str, str]) -> int | None:
    found = (environment.get(name, "") for name in names)
    return next((int(text) for text in found if text.isascii() and text.isdigit() and len(text) < _DIGITS), None)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    return _first_integer(_RANK_NAMES, environment) or 0


def launched_by_open_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Open MPI's mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in environment


def launched_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher says it started; 1 without a launcher."""
    return _first_integer(_SIZE_NAMES, environment) or 1


def limit(timeout: int, environment: Mapping[str, str] = os.environ) -> int:
    """`timeout`, but none while a debugger may hold a rank: the others wait for it then."""
    return 0 if DEBUG_RANK in environment else timeout
