"""The memory of each rank: weights, cache, buffers and the program itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpi_spp.errors import UserError
from mpi_spp.forecast.scenario import Layout, Scenario, cache_of, position_bytes
from mpi_spp.forecast.sync import Moved
from mpi_spp.kernels.backends import is_native
from mpi_spp.model.loading.sizes import WeightSizes
from mpi_spp.parallel.dispatch_cost import others_met
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.parallel.phase import Phase, needed
from mpi_spp.strategies.assignment import Plan

# What the back ends' libraries take once they have run: code, thread pools, packed forms for several counts of rows.
_LIBRARY_BYTES = {"plain": 16 << 20, "packed": 36 << 20, "widened": 36 << 20, "blockwise": 20 << 20}
_NATIVE_BYTES = 14 << 20
_FAULT_BYTES = 64 << 10  # that Linux maps of a file at once
_ROWS_OF_AN_MLP = 512  # at once, where positions are split
_ROWS_OF_A_PART = 128  # whose scores are there at once, where positions are split
_UNDER_WAY = 2  # rounds of the sync at the same time, and hidden states: computed, arriving and sent


@dataclass(frozen=True)
class RankMemory:
    """Bytes. `mapped`: of the model's file, shared by the ranks of a host; the system takes it back when it wants."""

    weights: int
    cache: int
    buffers: int
    program: int
    mapped: int

    @property
    def total(self) -> int:
        """What must be there."""
        return self.weights + self.cache + self.buffers + self.program


def memory_of_ranks(scenario: Scenario, layout: Layout, moved: Moved | None) -> list[RankMemory]:
    """For each rank of a replica; `moved`: by the sync."""
    sizes = scenario.sizes()
    plan = layout.plan
    vocabulary = split_evenly(scenario.model.vocab_size, layout.num_ranks)
    largest_rounds = [0] * layout.num_ranks if moved is None else (moved.sent + moved.received).max(axis=0).tolist()
    ranks = []
    for rank in range(layout.num_ranks):
        ranks.append(
            RankMemory(
                _layer_bytes(sizes, plan, rank) + sizes.of_head(vocabulary[rank]),
                cache_bytes(scenario, layout, rank),
                buffer_bytes(scenario, layout, rank) + _UNDER_WAY * int(largest_rounds[rank]),
                scenario.program_bytes,
                _mapped_bytes(scenario, layout, rank),
            )
        )
    return ranks


def _layer_bytes(sizes: WeightSizes, plan: Plan, rank: int) -> int:
    """Of the weights of all layers, or shares of them, that a rank needs."""
    total, own = 0, plan.decode.shares[rank]
    for layer, shares in needed((plan.prefill, plan.decode), rank).items():
        whole = sizes.of_shares(len(plan.shares), layer, plan.expert_groups)
        if not plan.dispatches:
            total += sum(whole[share] for share in shares)
            continue
        lean = sizes.of_shares(len(plan.shares), layer, plan.expert_groups, with_experts=False)
        total += sum((whole if share in own else lean)[share] for share in shares)
    return total


def cache_bytes(scenario: Scenario, layout: Layout, rank: int) -> int:
    """Of the decode's region, and of the prefill's too where it is not a part of that."""
    plan = layout.plan
    target = cache_of(scenario, plan.decode, rank, layout.kept[rank], scenario.positions)
    if plan.prefill.regions[rank].is_within(plan.decode.regions[rank]):
        return target.nbytes
    return target.nbytes + cache_of(scenario, plan.prefill, rank, layout.made[rank], scenario.prompt_tokens).nbytes


def buffer_bytes(scenario: Scenario, layout: Layout, rank: int) -> int:
    """The most that is there at once besides cache and sync: an estimate, and what the libraries keep."""
    model, itemsize = scenario.model, scenario.dtype.itemsize
    place = layout.plan.prefill.places[rank]
    tokens = -(-max(map(len, layout.chunks)) // place.num_parts)
    own = -(-tokens * place.num_weight_shards // place.num_shards)  # of the tokens it has the hidden states
    hidden = (1 + _UNDER_WAY) * own * model.hidden_size * 4
    heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    heads *= 3 if place.splits_tokens else 1  # computed, on their way, and those that have come
    widest = max(heads, 3 * model.widest) // place.num_weight_shards
    inner = own * itemsize * (2 * model.hidden_size + widest)
    if place.num_parts > 1:
        hidden //= (1 + _UNDER_WAY) if place.num_stages == 1 else 1
        inner = _part_bytes(scenario, layout.plan.prefill, rank, (tokens, own))
        tokens = min(tokens, _ROWS_OF_A_PART)
    if layout.plan.dispatches and model.experts is not None:  # own rows leave, and as many come, both with outputs
        rows = own * others_met(model.experts, place.stage_size)
        inner += int(2 * rows * model.hidden_size * (itemsize + 4))
    return hidden + inner + _visible_bytes(scenario, tokens) + _library_bytes(scenario.kernels)


def _library_bytes(kernels: str) -> int:
    return _NATIVE_BYTES if is_native(kernels) else _LIBRARY_BYTES[kernels]


def _part_bytes(scenario: Scenario, phase: Phase, rank: int, rows: tuple[int, int]) -> int:
    """Of a rank with a part of the positions: one layer of another rank's cache as it arrives, leaves and is looked at.

    And of its tokens what they have seen, in float32, what goes into attention, and a few rows of the MLP. `rows`: of
    a chunk, those of its part, and of these its own.
    """
    model, place, itemsize = scenario.model, phase.places[rank], scenario.dtype.itemsize
    (tokens, own), held = rows, -(-scenario.prompt_tokens // place.num_parts)
    queries, keys = -(-model.num_attention_heads // place.num_shards), len(phase.regions[rank].heads)
    seen = 2 * tokens * queries * model.head_dim * 4
    inner = min(own, _ROWS_OF_AN_MLP) * 3 * model.widest + own * model.hidden_size
    inner += 2 * tokens * (queries + keys) * model.head_dim * (3 if place.splits_tokens else 1)
    return 3 * held * keys * position_bytes(scenario) + seen + inner * itemsize


def _visible_bytes(scenario: Scenario, tokens: int) -> int:
    """Scores of a key/value head's queries; and a layer's cache in numbers, where it is kept in codes. Torch only."""
    model, itemsize = scenario.model, scenario.dtype.itemsize
    if is_native(scenario.kernels):
        return 0
    if scenario.kernels in ("widened", "blockwise"):
        itemsize = 4  # all of it is computed in float32
    scores = 2 * tokens * model.query_groups * scenario.prompt_tokens * itemsize
    numbers = 2 * model.num_key_value_heads * model.head_dim * scenario.positions * (4 + itemsize)
    repacked = model.hidden_size * 2 * model.widest * itemsize  # for many rows, while a product runs
    is_read_as_it_is = scenario.config.kv_cache_dtype != "int8" and itemsize == scenario.dtype.itemsize
    return scores + repacked + (0 if is_read_as_it_is else numbers)


def _mapped_bytes(scenario: Scenario, layout: Layout, rank: int) -> int:
    """Pages of the embedding that become resident as tokens are looked up anywhere in it, each with its neighbours."""
    prefill, decode = layout.plan.prefill.places[rank], layout.plan.decode.places[rank]
    looked_up = scenario.prompt_tokens * prefill.num_weight_shards // prefill.num_shards
    tokens = looked_up * (prefill.stage == 0) + scenario.new_tokens * (decode.stage == 0)
    whole = scenario.model.vocab_size * scenario.model.hidden_size * (scenario.model.dtype or scenario.dtype).itemsize
    return int(whole * -math.expm1(-tokens * _FAULT_BYTES / whole))


def host_bytes(ranks: Sequence[RankMemory], hosts: Sequence[str]) -> dict[str, int]:
    """What the ranks of each host need together."""
    totals: dict[str, int] = {}
    for rank, host in zip(ranks, hosts, strict=True):
        totals[host] = totals.get(host, 0) + rank.total
    return totals


def overfull(ranks: Sequence[RankMemory], hosts: Sequence[str], limits: Mapping[str, int]) -> tuple[str, int] | None:
    """The first host that has not enough memory, and what it would need; None: all have."""
    found = ((host, need) for host, need in host_bytes(ranks, hosts).items() if need > limits.get(host, need))
    return next(found, None)


def require_positions(scenario: Scenario) -> None:
    """Raise UserError when prompt and answer are longer than the model can see."""
    if scenario.positions > scenario.model.max_positions:
        raise UserError(
            f"--prompt-tokens: {scenario.prompt_tokens} with --new-tokens {scenario.new_tokens} is more than the"
            f" {scenario.model.max_positions} positions of {scenario.config.model}; give fewer"
        )
