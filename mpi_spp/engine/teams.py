"""Which ranks of a job work together on one sequence: replicas, or the two halves of a guidance pair."""

from dataclasses import dataclass

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.parallel.mesh import Mesh, mesh_of, parse_mesh
from mpi_spp.parallel.partition import split_evenly


@dataclass(frozen=True)
class Team:
    """Consecutive ranks of the job, and the mesh by which they share the work of a sequence."""

    ranks: range
    mesh: Mesh


def teams_of(config: RunConfig, num_ranks: int) -> list[Team]:
    """All teams in the order of their ranks. Raises UserError where the mesh does not fit.

    With guidance the conditional sequence's team comes first, and is larger by one when the ranks are odd in number:
    its prompt is the longer one as a rule. A single rank is one team, for both sequences.
    """
    if config.is_guided and num_ranks > 1:
        _require_half(config.mesh, num_ranks)
        return [Team(half, mesh_of(config.mesh, len(half))) for half in split_evenly(num_ranks, 2)]
    mesh = mesh_of(config.mesh, num_ranks)
    size = mesh.replica_size
    return [Team(range(first, first + size), mesh) for first in range(0, num_ranks, size)]


def _require_half(mesh: str | None, num_ranks: int) -> None:
    if mesh is not None and 2 * parse_mesh(mesh).size != num_ranks:
        needed = 2 * parse_mesh(mesh).size
        raise UserError(
            f"--mesh: {mesh} is for one sequence of a guidance pair, so it needs {needed} ranks, but {num_ranks} run;"
            f" start {needed}, or change it"
        )
