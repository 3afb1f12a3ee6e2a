"""The grid of ranks, and which part of a model each of them computes in a phase: pure values."""

import re
from dataclasses import dataclass, replace

from mpi_spp.errors import UserError

AXES = ("dp", "pp", "tp")


@dataclass(frozen=True)
class Mesh:
    """Ranks by axis, the last running fastest: replicas (dp), stages of layers (pp), shards of each layer (tp).

    Replicas never talk while a request runs. How the ranks of one replica are used is for each phase to say.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1

    @property
    def replica_size(self) -> int:
        """The ranks that work on one request."""
        return self.pp * self.tp

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
            f"--mesh: {text} is for {mesh.size} ranks, but {num_ranks} run; start {mesh.size}, or change it"
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
    """Which part of the model a rank computes: a stage of layers, and of each layer a shard.

    With `splits_tokens` shards are of the attention's heads alone: all else a rank computes with whole weights, for its
    part of the tokens.
    """

    stage: int = 0
    num_stages: int = 1
    shard: int = 0
    num_shards: int = 1
    splits_tokens: bool = False

    @property
    def num_weight_shards(self) -> int:
        """How many ranks share the weights of a layer."""
        return 1 if self.splits_tokens else self.num_shards


def everything(mesh: Mesh, rank: int) -> Place:
    """Each rank computes the whole model."""
    return Place()


def stages(mesh: Mesh, rank: int) -> Place:
    """Layers are split over the axis pp, and each of them over tp."""
    return Place(rank // mesh.tp, mesh.pp, rank % mesh.tp, mesh.tp)


def shards(mesh: Mesh, rank: int) -> Place:
    """Each layer is split over all ranks of the replica; those of one shard of `stages` get neighbouring parts."""
    return Place(shard=rank % mesh.tp * mesh.pp + rank // mesh.tp, num_shards=mesh.replica_size)


def token_shards(mesh: Mesh, rank: int) -> Place:
    """Tokens and heads are split over all ranks of the replica; over the axis tp, inside stages, where there is one."""
    return replace(stages(mesh, rank) if mesh.tp > 1 else shards(mesh, rank), splits_tokens=mesh.replica_size > 1)
