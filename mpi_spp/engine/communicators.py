"""The communicators of a rank: conversations that never mix, and memory in common."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from mpi_spp.comm.all_reduce import SumOverRanks
from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.dispatch import Dispatch, DispatchOfParts
from mpi_spp.comm.heads import HeadsOverRanks
from mpi_spp.comm.shared import SharedTensors
from mpi_spp.comm.world import World
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.dispatch_cost import dispatch_pays
from mpi_spp.parallel.links import Group, Links
from mpi_spp.parallel.phase import Phase
from mpi_spp.strategies.assignment import Plan

log = logging.getLogger(__name__)


class Communicators:
    """Of the ranks of one team. Making one is collective over the job.

    `replica`: hidden states and tokens; `kv`: the KV sync; `selecting`: who shares the vocabulary.
    """

    def __init__(
        self,
        world: World,
        team: range,
        device: torch.device,
        cuda_aware: str,
        threads: int,
        alone: bool,
        guided: bool = False,
    ) -> None:
        """`alone`: each rank selects tokens by itself; `guided`: with all teams. `cuda_aware`: auto, yes or no."""
        world.leases.end()
        aware = device.type == "cuda" and is_cuda_aware(cuda_aware, world.mpi_comm)
        everyone = Communicator(world.mpi_comm, choose_staging(device, aware), world.some_share_cores(threads))
        self.replica = everyone.split(team.start, world.rank, "replica")
        self.kv = self.replica.duplicate("KV sync")
        made = [self.replica, self.kv]
        self.selecting = self.replica.alone() if alone else self.replica
        if guided:
            self.selecting = everyone.duplicate("guidance")
            made.append(self.selecting)
        self.hosts = self.replica.hosts(world.host)
        self._host_of = world.gather(world.host)
        self.shared = SharedTensors(self.hosts, "--sync-strategy: shared", world.leases)
        self._frees = [one.free for one in made]
        world.leases.add(self, self._frees)
        self._groups: dict[Any, Communicator] = {}
        log.info("device %s, CUDA-aware MPI %s, threads %d on cores %s", device, aware, threads, world.cores)

    def parts(self, phase: Phase) -> Communicator:
        """The ranks that differ from this one in their part of the positions alone. Collective, as `shard` is."""
        if phase.num_parts == 1:
            return self.replica.alone()
        return self._among("parts", [((place.stage, place.shard), place.part) for place in phase.places])

    def shard(
        self, phase: Phase, plan: Plan, model: ModelConfig, dtype: torch.dtype, links: Callable[[], Links]
    ) -> Shard:
        """What this rank computes of each layer, and what it does with others. Collective when the group is a new one.

        `phase`: one of the plan's two. `links`: between the ranks, asked for only where they decide.
        """
        rank = self.replica.rank
        place, shares = phase.places[rank], phase.shares[rank]
        apart = self._dispatch(plan) if plan.dispatches and phase is plan.prefill else None
        if place.num_shards == 1:
            return Shard(shares, dispatch=apart)
        group = self._among("shards", [((place.stage, place.part), place.shard) for place in phase.places])
        if place.splits_tokens:
            held = [plan.shares[index] for index in shares]
            heads = HeadsOverRanks(group, phase.heads, held, model.head_dim)
            return Shard(shares, dispatch=apart, exchange=heads)
        return Shard(shares, SumOverRanks(group), self._dispatch_of_parts(group, shares, plan, model, dtype, links))

    def _among(self, name: str, seats: Sequence[tuple[tuple[int, int], int]]) -> Communicator:
        """The ranks of this one's group. `seats`: by rank, its group and its place there."""
        key = (name, *seats)
        if key not in self._groups:
            group, place = seats[self.replica.rank]
            color = sorted({group for group, _ in seats}).index(group)
            self._groups[key] = self.replica.split(color, place, name)
            self._frees.append(self._groups[key].free)
        return self._groups[key]

    def _dispatch(self, plan: Plan) -> Dispatch:
        """To the experts of the ranks that share a stage, each of which has tokens of its own."""
        places = zip(plan.prefill.places, plan.decode.places, strict=True)
        group = self._among("experts", [((first.stage, 0), later.shard) for first, later in places])
        return Dispatch(group, [share.experts for share in plan.shares], plan.decode.shares[self.replica.rank])

    def _dispatch_of_parts(
        self,
        group: Communicator,
        shares: Sequence[int],
        plan: Plan,
        model: ModelConfig,
        dtype: torch.dtype,
        links: Callable[[], Links],
    ) -> DispatchOfParts | None:
        """Where each rank of the group has whole experts of its own: a way besides adding up."""
        experts, whole = model.experts, len(plan.shares) == plan.expert_groups == group.size
        if experts is None or experts.shared_size or not whole:
            return None
        # Measured sums have seen ranks wait for one another, single messages have not: both ways by messages, then.
        pays = functools.partial(
            dispatch_pays,
            experts=experts,
            hidden_size=model.hidden_size,
            itemsize=dtype.itemsize,
            group=Group(group.size, len({self._host_of[rank] for rank in group.members})),
            links=replace(links(), sums=None),
        )
        return DispatchOfParts(group, [share.experts for share in plan.shares], shares, pays)

    @property
    def bytes_sent(self) -> int:
        """Of all conversations."""
        return sum(comm.bytes_sent for comm in {self.replica, self.kv, self.selecting, *self._groups.values()})
