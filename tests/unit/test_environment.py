"""Which rank of how many a launcher says that this process is."""

import pytest

from mpi_spp.comm.environment import launched_rank, launched_size

OPEN_MPI, PMI, SLURM = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


@pytest.mark.parametrize(
    "told, rank, size",
    [
        ({}, 0, 1),
        ({OPEN_MPI: ("2", "3")}, 2, 3),
        ({PMI: ("1", "2"), SLURM: ("0", "1")}, 1, 2),
        ({OPEN_MPI: ("1", "1.5"), SLURM: ("3", "4")}, 3, 4),
        ({OPEN_MPI: ("1", "1.5")}, 0, 1),
        ({OPEN_MPI: ("", "3")}, 0, 1),
        ({OPEN_MPI: ("3", "3")}, 0, 1),
        ({OPEN_MPI: ("9" * 20, "9" * 21)}, 0, 1),
        ({PMI: ("\u0661", "2")}, 0, 1),
        ({("PMIX_RANK", "PMIX_NAMESPACE"): ("2", "job")}, 0, 1),
    ],
)
def test_a_rank_counts_with_its_size(told: dict[tuple[str, str], tuple[str, str]], rank: int, size: int) -> None:
    """A rank above 0 prints nothing, so one that is left over from another program would end in silence."""
    environment = dict(pair for names, values in told.items() for pair in zip(names, values, strict=True))
    assert (launched_rank(environment), launched_size(environment)) == (rank, size)
