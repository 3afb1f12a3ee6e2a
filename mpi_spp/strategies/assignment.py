"""The chosen prefill, sync and decode, on a model and its ranks: known before anything is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel import registry
from mpi_spp.parallel.layout import WHOLE, KVLayout
from mpi_spp.parallel.mesh import Mesh, Place
from mpi_spp.parallel.partition import Ranges, split_as, split_evenly, split_positions
from mpi_spp.parallel.phase import Phase, layout_of, plan_phase
from mpi_spp.parallel.schedule import Cost, split_by_cost
from mpi_spp.parallel.shares import Share, split_layer

_FEW_RANKS = 4  # so many exchange in one Allgather; more send round a ring


@dataclass(frozen=True)
class Strategies:
    """The modules, and where each rank of a replica stands in the two phases."""

    prefill: ModuleType
    sync: ModuleType
    sync_name: str
    decode: ModuleType
    prefill_places: list[Place]
    decode_places: list[Place]
    expert_groups: int = 1  # over which a layer's experts are spread, where it is split at all

    @property
    def num_stages(self) -> int:
        """Into which the layers are split, in the phase that splits them most."""
        return max(places[0].num_stages for places in (self.prefill_places, self.decode_places))

    @property
    def shares_memory(self) -> bool:
        """Whether the ranks of a host keep one cache."""
        return getattr(self.sync, "SHARES_MEMORY", False)


def load_strategies(config: RunConfig, mesh: Mesh, alone: bool = False) -> Strategies:
    """The modules of the chosen strategies. Raises UserError unless the sync joins the two others.

    `alone`: each rank decodes sequences of its own, for which it needs the whole cache.
    """
    prefill, decode = registry.load("prefill", config.prefill), registry.load("decode", config.decode)
    ranks = range(mesh.replica_size)
    places = [[module.place(mesh, rank) for rank in ranks] for module in (prefill, decode)]
    if mesh.ep > 1 and max(of_ranks[0].num_weight_shards for of_ranks in places) == 1:
        raise UserError(
            f"--mesh: {mesh} spreads experts over ep, but prefill {config.prefill} and decode {config.decode}"
            " give each rank whole layers; choose tensor for one of them, or leave ep out"
        )
    source, target = (layout_of(of_ranks[0]) for of_ranks in places)
    if alone and target != WHOLE:
        raise UserError(
            f"--decode: {config.decode} splits the cache over the ranks, but of several answers each is made by one"
            " rank alone; choose replicated"
        )
    sync_name = config.sync_strategy
    if sync_name == "auto" or len(ranks) == 1:  # one rank has nobody to exchange a cache with
        sync_name = sync_that_joins(source, target, len(ranks))
    if alone and sync_name == "shared":
        raise UserError(
            "--sync-strategy: shared keeps one cache for the ranks of a host, but each goes on with answers of its own;"
            " choose pairwise, ring or auto"
        )
    sync, fitting = registry.load("sync", sync_name), sync_that_joins(source, target, len(ranks))
    if not sync.joins(source, target):
        raise UserError(
            f"--sync-strategy: {sync_name} cannot bring the cache from '{source}', as prefill {config.prefill} leaves"
            f" it, to '{target}', as decode {config.decode} wants it; choose {fitting} or auto"
        )
    return Strategies(prefill, sync, sync_name, decode, places[0], places[1], mesh.ep)


def sync_that_joins(source: KVLayout, target: KVLayout, num_ranks: int) -> str:
    """What `--sync-strategy auto` takes."""
    if source == target:
        return "none"
    if target != WHOLE:
        return "reshard"
    return "pairwise" if num_ranks <= _FEW_RANKS else "ring"


@dataclass(frozen=True)
class Plan:
    """Both phases of a run, over the same shares of layers. `context_split`: how positions are split, if they are."""

    shares: list[Share]  # experts are dealt out to `expert_groups` of consecutive ones
    prefill: Phase
    decode: Phase
    expert_groups: int
    context_split: str

    @property
    def dispatches(self) -> bool:
        """Whether ranks that have tokens of their own in the prefill send them to one another's experts."""
        place = self.prefill.places[0]
        have_own = place.splits_tokens or place.num_parts > 1
        return have_own and len(self.shares) == self.expert_groups == place.stage_size

    def shares_on(self, rank: int) -> list[Share]:
        """The shares in the form in which a rank holds them: of experts that others compute for it, it has none."""
        own = self.decode.shares[rank] if self.dispatches else range(len(self.shares))
        return [share if number in own else share.without_experts() for number, share in enumerate(self.shares)]

    def prefill_positions(self, chunks: Sequence[range]) -> list[Ranges]:
        """Those of the prompt that each rank computes."""
        return _of_ranks(self.prefill, self.prefill_parts(chunks))

    def prefill_parts(self, chunks: Sequence[range]) -> list[Ranges]:
        """Those of each part, however many ranks share it."""
        return split_positions(chunks, self.prefill.num_parts, self.context_split)

    def decode_positions(self, chunks: Sequence[range]) -> list[Ranges]:
        """Those of the prompt that each rank keeps: where the prefill has split them too, what it has made."""
        if self.decode.num_parts == self.prefill.num_parts:
            return self.prefill_positions(chunks)
        whole = [range(chunks[-1].stop)]
        return _of_ranks(self.decode, split_positions(whole, self.decode.num_parts, "contiguous"))


def plan_phases(chosen: Strategies, config: RunConfig, model: ModelConfig, costs: Callable[[], Sequence[Cost]]) -> Plan:
    """Who computes what. `costs`: of a layer on each rank of the replica, asked for only where they decide."""
    both = (chosen.prefill_places, chosen.decode_places)
    config.require_layer_split(model.num_hidden_layers, chosen.num_stages)
    if chosen.expert_groups > 1 and model.experts is None:
        raise UserError(f"--mesh: {config.mesh} spreads experts over ep, but {config.model} has none; use tp instead")
    num_shares = max(places[0].num_weight_shards for places in both)
    expert_groups = chosen.expert_groups if num_shares > 1 else 1
    shares = split_layer(model, num_shares, expert_groups)
    prefill, decode = (
        plan_phase(places, _layer_spans(places, config, model.num_hidden_layers, costs), shares, _heads(places, model))
        for places in both
    )
    return Plan(shares, prefill, decode, expert_groups, config.context_split)


def _heads(places: Sequence[Place], model: ModelConfig) -> list[Share]:
    """Those of each shard, where the ranks of a stage split the tokens."""
    return split_layer(model, places[0].num_shards) if places[0].splits_tokens else []


def _of_ranks(phase: Phase, parts: Sequence[Ranges]) -> list[Ranges]:
    return [parts[place.part] for place in phase.places]


def _layer_spans(
    places: Sequence[Place], config: RunConfig, num_layers: int, costs: Callable[[], Sequence[Cost]]
) -> list[range]:
    """The layers of each stage."""
    count, split = places[0].num_stages, config.layer_split
    if count == 1:
        return [range(num_layers)]
    if isinstance(split, tuple):
        return split_as(split)
    if split == "even":
        return split_evenly(num_layers, count)
    slowest = [Cost(1, 0.0, 0.0, 0.0, 0.0)] * count
    for place, cost in zip(places, costs(), strict=True):
        slowest[place.stage] = max(slowest[place.stage], cost, key=lambda one: one.seconds(1024, 128))
    return split_by_cost(num_layers, slowest)
