"""What a launcher, or whoever looks for a fault, tells processes by environment variables; needs no MPI library."""

import os
from collections.abc import Mapping

# Of rank and size, of which both or neither count, and the first that do: Open MPI; MPICH, Intel MPI and other PMI-1
# launchers; MVAPICH; srun (a job step, not the whole allocation).
_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_DIGITS = 10  # of no count of ranks
DEBUG_RANK = "MPI_SPP_DEBUG_RANK"  # waits for a debugger


def _integer(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None


def _launched(environment: Mapping[str, str]) -> tuple[int, int]:
    """Rank and size. A rank without a size, or beyond it, is a leftover: it would keep quiet for ever."""
    pairs = ((_integer(rank, environment), _integer(size, environment)) for rank, size in _NAMES)
    known = ((rank, size) for rank, size in pairs if rank is not None and size is not None and rank < size)
    return next(known, (0, 1))


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    return _launched(environment)[0]


def launched_by_open_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Open MPI's mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in environment


def launched_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher says it started; 1 without a launcher."""
    return _launched(environment)[1]


def limit(timeout: int, environment: Mapping[str, str] = os.environ) -> int:
    """`timeout`, but none while a debugger may hold a rank: the others wait for it then."""
    return 0 if DEBUG_RANK in environment else timeout
