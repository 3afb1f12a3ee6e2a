"""The grid of ranks, and which part of a model each of them computes in a phase: pure values."""

import re
from dataclasses import dataclass, replace

from mpi_spp.errors import UserError
from mpi_spp.system.units import counted

AXES = ("dp", "pp", "ep", "tp")


@dataclass(frozen=True)
class Mesh:
    """Ranks by axis: replicas (dp), stages of layers (pp), groups of experts (ep), shards of each layer (tp).

    Neighbours differ in tp first, then in ep, pp and dp. Of a layer, what is no expert is split over ep and tp alike.
    Replicas never talk while a request runs. How the ranks of one replica are used is for each phase to say.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def stage_size(self) -> int:
        """The ranks that share a stage of layers."""
        return self.ep * self.tp

    @property
    def replica_size(self) -> int:
        """The ranks that work on one request."""
        return self.pp * self.stage_size

    @property
    def size(self) -> int:
        """All ranks."""
        return self.dp * self.replica_size

    def __str__(self) -> str:
        return ",".join(f"{axis}={getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1) or "pp=1"


def parse_mesh(text: str) -> Mesh:
    """Read `pp=2,tp=2`. Raises UserError for anything else."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9]{1,9})\s*", part, re.ASCII)
        if found is None or found[1] not in AXES or found[1] in sizes or int(found[2]) < 1:
            raise UserError(f"--mesh: {text!r} is no list of axes and sizes; give {', '.join(AXES)}, such as pp=2,tp=2")
        sizes[found[1]] = int(found[2])
    return Mesh(**sizes)


def mesh_of(text: str | None, num_ranks: int) -> Mesh:
    """The mesh of so many ranks; None: they are the stages of one replica. Raises UserError where it does not fit."""
    mesh = Mesh(pp=num_ranks) if text is None else parse_mesh(text)
    if mesh.size != num_ranks:
        raise UserError(
            f"--mesh: {text} is for {counted(mesh.size, 'rank')}, not {num_ranks}; start {mesh.size}, or change it"
        )
    return mesh


def require_one_replica(mesh: Mesh) -> None:
    """Raise UserError where one request is all that there is."""
    if mesh.dp > 1:
        raise UserError(
            f"--mesh: {mesh} has {mesh.dp} replicas, but one prompt needs one; leave dp out, or answer many prompts"
            " with `mpi-spp batch`"
        )


@dataclass(frozen=True)
class Place:
    """Which part of the work a rank has: a stage of layers, of each layer a shard, and a part of the positions.

    With `splits_tokens` shards are of the attention's heads alone: all else a rank computes with whole weights, for its
    part of the tokens. Ranks of a stage have consecutive numbers.
    """

    stage: int = 0
    num_stages: int = 1
    shard: int = 0
    num_shards: int = 1
    splits_tokens: bool = False
    part: int = 0
    num_parts: int = 1

    @property
    def stage_size(self) -> int:
        """The ranks that have the same stage."""
        return self.num_shards * self.num_parts

    @property
    def num_weight_shards(self) -> int:
        """How many ranks share the weights of a layer."""
        return 1 if self.splits_tokens else self.num_shards


def everything(mesh: Mesh, rank: int) -> Place:
    """Each rank computes the whole model."""
    return Place()


def stages(mesh: Mesh, rank: int) -> Place:
    """Layers are split over the axis pp, and each of them over ep and tp."""
    size = mesh.stage_size
    return Place(rank // size, mesh.pp, rank % size, size)


def shards(mesh: Mesh, rank: int) -> Place:
    """Each layer is split over all ranks of the replica; those of one shard of `stages` get neighbouring parts."""
    size = mesh.stage_size
    return Place(shard=rank % size * mesh.pp + rank // size, num_shards=mesh.replica_size)


def token_shards(mesh: Mesh, rank: int) -> Place:
    """Tokens and heads are split over all ranks of the replica; inside stages, where the mesh has shards of those."""
    place = stages(mesh, rank) if mesh.stage_size > 1 else shards(mesh, rank)
    return replace(place, splits_tokens=mesh.replica_size > 1)


def positions(mesh: Mesh, rank: int) -> Place:
    """Each rank computes the whole model, with a part of the positions."""
    return Place(part=rank, num_parts=mesh.replica_size)


def position_stages(mesh: Mesh, rank: int) -> Place:
    """Each rank computes whole layers, with a part of the positions; inside stages, where the mesh has both."""
    size = mesh.stage_size
    return Place(rank // size, mesh.pp, part=rank % size, num_parts=size) if size > 1 else positions(mesh, rank)


def positions_and_tokens(mesh: Mesh, rank: int) -> Place:
    """Positions are split over pp, the tokens and heads of each part over ep and tp; each rank has the whole model."""
    size = mesh.stage_size
    return Place(shard=rank % size, num_shards=size, splits_tokens=size > 1, part=rank // size, num_parts=mesh.pp)
