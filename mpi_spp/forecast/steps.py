"""What a new token costs: measured on layers of the model, while the ranks of a host decode at the same time."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mpi_spp.engine.costs import now
from mpi_spp.forecast.speeds import StepCost
from mpi_spp.forecast.work import largest_work
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import ALL, Shard, Total
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.parallel.shares import kv_heads_of, split_layer

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import World

_POSITIONS = 2048  # that a token looks back at, against none
_ROUNDS = 16
_WARM_UP = 2
_STEADY = 1.5  # times the shortest pass may take the median one, unless another program ran

# The first layers, of so many shares the one of this number, and of the vocabulary such a part.
MakeStage = Callable[[int, int, range], Stage]
Work = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """Seconds of the measured steps, by name, and how large they were: layers, and bytes of each."""

    seconds: Mapping[str, float]
    layers: int
    layer_bytes: int
    share_layers: int
    share_bytes: int
    slowest_bytes: int  # of a layer, where each of its halves waits for the share that has most of it
    cache_bytes: int  # of a layer at the far position
    head_bytes: int
    head_rows: int


def measure_steps(
    config: ModelConfig, make: MakeStage, comm: "Communicator", world: "World"
) -> tuple[StepCost, StepCost, bool]:
    """Of this rank while all of its host decode, and while it alone does; and whether nothing disturbed it. Collective.

    Passes over whole layers without and with a cache to look back at, over a share of layers, and over a share of which
    each half is added up over the ranks: that is what the strategies of the decode consist of.
    """
    count = max(2, comm.size)
    index = comm.rank if comm.size > 1 else 0
    rows = split_evenly(config.vocab_size, count)[index]
    whole, share = world.together(lambda: (make(1, 0, range(1)), make(count, index, rows)))
    shares = split_layer(config, count)
    cache, part = _cache(whole), _cache(share, kv_heads_of([shares[index]]))
    works = {
        "nothing": _step(whole, cache, 0, ALL, range(0)),
        "near": _step(whole, cache, 0, ALL, cache.layers),
        "far": _step(whole, cache, _POSITIONS, ALL, cache.layers),
    }
    both = works | {
        "share": _step(share, part, 0, Shard((index,)), part.layers),
        "sums": _step(share, part, 0, Shard((index,), _total(comm)), part.layers),
        "choice": _choice(share),
    }
    passes = _slowest_of_host(_passes(both, whole.device, comm.barrier), comm, world)
    alone = _alone(works, whole.device, world)
    work = largest_work(config, shares, [range(one, one + 1) for one in range(count)])
    active = config.active_parameters / config.layer_parameters  # what a token reads of experts
    layer = round(whole.weights.layers[0][0].nbytes * active)
    measured = Measured(
        {name: statistics.median(of_passes) for name, of_passes in passes.items()},
        len(cache.layers),
        layer,
        len(part.layers),
        round(share.weights.layers[0][index].nbytes * active),
        round((work.attention + work.mlp) * layer),
        cache.position_bytes * len(cache.heads) * _POSITIONS,
        share.weights.head.nbytes,
        len(rows),
    )
    cost = fit_step(measured)
    if comm.size == 1:
        cost = replace(cost, sum_s=None)
    return cost, cost if world.local_size == 1 else fit_alone(cost, measured, alone), is_steady(passes["near"])


def fit_step(measured: Measured) -> StepCost:
    """The cost that explains the times: what a share costs less than a whole layer is what it reads less."""
    times, layers = measured.seconds, measured.layers
    near = max((times["near"] - times["nothing"]) / layers, 1e-9)
    share = max((times["share"] - times["nothing"]) / measured.share_layers, 1e-9)
    rate = (measured.layer_bytes - measured.share_bytes) / max(near - share, 1e-12)
    rate = max(rate, measured.layer_bytes / near)  # no layer costs less than nothing besides
    per_layer = max(0.0, near - measured.layer_bytes / rate)  # rounding may leave less than nothing
    computing = per_layer + measured.slowest_bytes / rate
    sum_s = max(0.0, (times["sums"] - times["nothing"]) / measured.share_layers - computing) / 2
    per_row = max(0.0, times["choice"] - measured.head_bytes / rate) / max(1, measured.head_rows)
    return StepCost(times["nothing"], per_layer, rate, _cache_rate(measured, times), per_row, sum_s)


def fit_alone(both: StepCost, measured: Measured, times: Mapping[str, float]) -> StepCost:
    """The same rank with the host's memory to itself, from passes over whole layers."""
    near = max((times["near"] - times["nothing"]) / measured.layers, 1e-9)
    reading = max(near - both.per_layer, near / 2)
    return StepCost(
        times["nothing"], near - reading, measured.layer_bytes / reading, _cache_rate(measured, times), both.per_row
    )


def _cache_rate(measured: Measured, times: Mapping[str, float]) -> float:
    """Bytes of cache that attention goes through in a second."""
    return measured.cache_bytes / max((times["far"] - times["near"]) / measured.layers, 1e-9)


def _cache(stage: Stage, heads: range | None = None) -> KVCache:
    """For all layers that are held: one for each, as in a decode, so that it comes from memory."""
    cache = stage.new_cache(range(len(stage.weights.layers)), _POSITIONS + 1, heads=heads)
    cache.keys.zero_()
    cache.values.zero_()
    return cache


def _step(stage: Stage, cache: KVCache, position: int, shard: Shard, layers: range) -> Work:
    """One token at this position, through these layers."""
    token = torch.zeros(1, dtype=torch.int64)

    def work() -> None:
        batch = one_span(range(position, position + 1), cache, position + 1)
        stage.forward(stage.embed(token), batch, layers, shard)

    return work


def _total(comm: "Communicator") -> Total | None:
    from mpi_spp.comm.all_reduce import SumOverRanks

    return SumOverRanks(comm) if comm.size > 1 else None


def _choice(stage: Stage) -> Work:
    """The best token of this rank's slice; which one does not matter."""
    from mpi_spp.strategies.sampling.greedy import best_of_slice

    hidden = torch.randn(1, stage.config.hidden_size, device=stage.device)
    return lambda: best_of_slice(stage, hidden) if len(stage.vocabulary) else None


def _passes(works: Mapping[str, Work], device: torch.device, before: Work = lambda: None) -> dict[str, list[float]]:
    """Seconds of every pass; the works take turns, and the ranks begin each at the same time."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(_WARM_UP + _ROUNDS):
        for name, work in works.items():
            before()
            start = now(device)
            work()
            times[name].append(now(device) - start)
    return {name: of_passes[_WARM_UP:] for name, of_passes in times.items()}


def is_steady(seconds: Sequence[float]) -> bool:
    """Whether most passes took about as long as the shortest one."""
    return statistics.median(seconds) <= _STEADY * min(seconds)


def _slowest_of_host(times: dict[str, list[float]], comm: "Communicator", world: "World") -> dict[str, list[float]]:
    """Of passes, each as long as on its slowest rank: who decodes together waits for it at every token."""
    first = world.rank - comm.rank
    ranks = world.gather((world.host, times))[first : first + comm.size]
    there = [of_rank for host, of_rank in ranks if host == world.host]
    return {name: list(map(max, zip(*(one[name] for one in there), strict=True))) for name in times}


def _alone(works: Mapping[str, Work], device: torch.device, world: "World") -> dict[str, float]:
    """Of one rank of each host, while the others sleep."""
    mine = None
    if world.local_rank == 0:
        mine = {name: statistics.median(of_passes) for name, of_passes in _passes(works, device).items()}
    world.agree()
    return next(times for host, times in world.gather((world.host, mine)) if host == world.host and times is not None)
