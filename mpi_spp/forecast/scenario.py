"""What a forecast is made of: a run that nobody has started yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from mpi_spp.config import RunConfig
from mpi_spp.forecast.speeds import Speeds
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.cache import COLUMNS
from mpi_spp.kernels.native.cache import PanelShape
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.loading.sizes import WeightSizes, sizes_of
from mpi_spp.parallel.chunks import cut
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import Ranges
from mpi_spp.parallel.phase import Phase, held_by
from mpi_spp.strategies.assignment import Plan, Strategies, load_strategies, plan_phases

PROGRAM_BYTES = 270_000_000  # Python, torch and MPI, measured: 250 MB; on the rank that has the tokenizer up to 400 MB

_META = torch.device("meta")


@dataclass(frozen=True)
class Scenario:
    """A model, its ranks by host, one request's lengths in tokens, and what is known of speeds and limits.

    `hosts` names the host of every rank of one replica; `limits` is bytes by host, where there are limits;
    `program_bytes` is what a rank takes before it reads the model.
    """

    config: RunConfig
    model: ModelConfig
    mesh: Mesh
    hosts: Sequence[str]
    dtype: torch.dtype
    kernels: str
    prompt_tokens: int
    new_tokens: int
    speeds: Speeds
    limits: Mapping[str, int] = field(default_factory=dict)
    program_bytes: int = PROGRAM_BYTES

    @property
    def positions(self) -> int:
        """The tokens of prompt and answer."""
        return self.prompt_tokens + self.new_tokens

    def sizes(self) -> WeightSizes:
        """Of the weights in this form."""
        return sizes_of(self.model, self.dtype, self.kernels, self.config.quantize, self.config.quantize_group_size)


@dataclass(frozen=True)
class Layout:
    """The chosen strategies with their phases and the prompt's chunks."""

    strategies: Strategies
    plan: Plan
    chunks: list[range]

    @property
    def num_ranks(self) -> int:
        """Of a replica."""
        return len(self.plan.prefill.places)

    @cached_property
    def made(self) -> list[Ranges]:
        """The positions of the prompt that each rank computes."""
        return self.plan.prefill_positions(self.chunks)

    @cached_property
    def kept(self) -> list[Ranges]:
        """Those that each rank keeps for the decode."""
        return self.plan.decode_positions(self.chunks)


def lay_out(scenario: Scenario) -> Layout:
    """Who would compute what. Raises UserError where the run itself would refuse."""
    costs = scenario.speeds.layers
    strategies = load_strategies(scenario.config, scenario.mesh)
    plan = plan_phases(strategies, scenario.config, scenario.model, lambda: costs)
    return Layout(strategies, plan, cut(scenario.prompt_tokens, scenario.config.chunk_size, plan.prefill, costs))


def cache_dtype(scenario: Scenario) -> torch.dtype:
    """Of keys and values."""
    return torch.int8 if scenario.config.kv_cache_dtype == "int8" else scenario.dtype


def position_bytes(scenario: Scenario) -> int:
    """Of one key/value head of one layer, as it travels."""
    return KVCache(range(1), range(1), 1, scenario.model.head_dim, cache_dtype(scenario), _META).position_bytes


def cache_of(scenario: Scenario, phase: Phase, rank: int, positions: Ranges, capacity: int) -> KVCache:
    """The cache that a rank would keep in a phase, with these of the prompt; it has a shape and no memory."""
    region, room = phase.regions[rank], held_by(phase.places[rank], positions, scenario.prompt_tokens).room(capacity)
    layout = PanelShape() if is_native(scenario.kernels) else COLUMNS
    return KVCache(region.layers, region.heads, room, scenario.model.head_dim, cache_dtype(scenario), _META, layout)
