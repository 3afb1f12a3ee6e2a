"""The communicators of a rank: conversations that never mix, and memory in common."""

import logging
from typing import Any

import torch

from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.shared import SharedTensors
from mpi_spp.comm.total import SumOverRanks
from mpi_spp.comm.world import World
from mpi_spp.mesh import Mesh
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Shard
from mpi_spp.phase import Phase
from mpi_spp.prefill._heads import HeadsOverRanks
from mpi_spp.strategies import Plan

log = logging.getLogger(__name__)


class Connections:
    """Of the ranks of one replica. Making one is collective over the job.

    `replica`: hidden states and tokens; `kv`: the KV sync; `selecting`: who shares the vocabulary.
    """

    def __init__(
        self, world: World, mesh: Mesh, device: torch.device, cuda_aware: str, threads: int, alone: bool
    ) -> None:
        """`alone`: each rank selects tokens by itself. `cuda_aware`: auto, yes or no."""
        aware = device.type == "cuda" and is_cuda_aware(cuda_aware, world.mpi_comm)
        everyone = Communicator(world.mpi_comm, choose_staging(device, aware), world.some_share_cores(threads))
        self.replica = everyone.split(world.rank // mesh.replica_size, world.rank, "replica")
        self.kv = self.replica.duplicate("KV sync")
        self.selecting = self.replica.alone() if alone else self.replica
        self.hosts = self.replica.hosts(world.host)
        self.shared = SharedTensors(self.hosts, "--sync-strategy: shared")
        self._groups: dict[Any, Communicator] = {}
        log.info("device %s, CUDA-aware MPI %s, threads %d on cores %s", device, aware, threads, world.cores)

    def shard(self, phase: Phase, plan: Plan, model: ModelConfig) -> Shard:
        """What this rank computes of each layer, and what it does with others. Collective when the group is a new one.

        `phase`: one of the plan's two.
        """
        rank = self.replica.rank
        place = phase.places[rank]
        if place.num_shards == 1:
            return Shard(phase.shares[rank])
        key = tuple((place.stage, place.shard) for place in phase.places)
        if key not in self._groups:
            self._groups[key] = self.replica.split(place.stage, place.shard, "shards")
        if place.splits_tokens:
            held = [plan.shares[index] for index in phase.shares[rank]]
            exchange = HeadsOverRanks(self._groups[key], phase.heads, held, model.head_dim)
            return Shard(phase.shares[rank], exchange=exchange)
        return Shard(phase.shares[rank], SumOverRanks(self._groups[key]))

    @property
    def bytes_sent(self) -> int:
        """Of all conversations."""
        return sum(comm.bytes_sent for comm in (self.replica, self.kv, *self._groups.values()))
