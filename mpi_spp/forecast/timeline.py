"""When each chunk of a prefill is computed, and what of the sync is left then: a queue of rounds beside a pipeline."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpi_spp.forecast.routes import Array
from mpi_spp.forecast.scenario import Layout, Scenario, position_bytes
from mpi_spp.forecast.sync import Moved
from mpi_spp.forecast.work import heads_moved, largest_work
from mpi_spp.parallel.dispatch_cost import dispatch_s
from mpi_spp.parallel.links import Group, Links
from mpi_spp.parallel.schedule import Cost, finish_times
from mpi_spp.strategies.assignment import Plan


@dataclass(frozen=True)
class Timeline:
    """Seconds of the prefill, and of the sync behind it."""

    prefill: float
    exposed: float


def timeline_of(scenario: Scenario, layout: Layout, moved: Moved | None) -> Timeline:
    """Of one prompt; `moved`: by the sync."""
    ranks = _ranks_of_stages(layout)
    taken = _taken(scenario, layout, ranks)
    sending, latency = _hops(scenario, layout, ranks)
    # A link carries one chunk after another, as a stage computes them: so it is one, between two others.
    between = range(1, len(ranks))
    in_turn = np.insert(taken, between, sending, axis=0)
    finished = finish_times(in_turn, np.insert(np.zeros_like(taken), between, latency, axis=0))[::2]
    end = float(finished[-1, -1])
    if moved is None:
        return Timeline(end, 0.0)
    layers = np.array([len(layout.plan.prefill.spans[of_stage[0]]) for of_stage in ranks])
    synced = _synced(scenario, moved, _starts(moved, finished, taken, layers))
    return Timeline(end, max(0.0, synced - end))


def _ranks_of_stages(layout: Layout) -> list[list[int]]:
    places = layout.plan.prefill.places
    ranks: list[list[int]] = [[] for _ in range(places[0].num_stages)]
    for rank, place in enumerate(places):
        ranks[place.stage].append(rank)
    return ranks


def _taken(scenario: Scenario, layout: Layout, ranks: Sequence[Sequence[int]]) -> Array:
    """Seconds of computing for each chunk in each stage, [stages, chunks]."""
    prefixes = np.array([chunk.start for chunk in layout.chunks], dtype=float)
    tokens = np.array([len(chunk) for chunk in layout.chunks], dtype=float)
    rows = [_stage_cost(scenario, layout, of_stage).seconds(prefixes, tokens) for of_stage in ranks]
    combined = [_combining_s(scenario, layout, of_stage, tokens) for of_stage in ranks]
    result: Array = np.array(rows) * _crowding(scenario, ranks, len(tokens)) + np.array(combined)
    return result


def _stage_cost(scenario: Scenario, layout: Layout, ranks: Sequence[int]) -> Cost:
    """Of all its layers on its slowest rank. The shards of a layer wait for one another behind attention and MLP.

    Those that share cores take turns: the last of three on two cores has a whole turn of its own each time.
    """
    phase, costs = layout.plan.prefill, [scenario.speeds.layers[rank] for rank in ranks]
    if len(ranks) > 1:
        turns = [scenario.speeds.crowding[rank] for rank in ranks]
        costs = [cost.times(math.ceil(crowding) / crowding) for cost, crowding in zip(costs, turns, strict=True)]
    slowest = max(costs, key=lambda cost: cost.seconds(0, cost.longest) / cost.longest)
    work = largest_work(scenario.model, layout.plan.shares, [phase.shares[rank] for rank in ranks])
    weights, layers, part = work.attention + work.mlp, len(phase.spans[ranks[0]]), 1.0
    if phase.heads:  # each has all weights, for its part of the tokens
        work = largest_work(scenario.model, phase.heads, [range(at, at + 1) for at in range(len(phase.heads))])
        part = 1 / len(phase.heads)
    return Cost(
        slowest.longest,
        layers * slowest.per_chunk * weights,
        layers * slowest.per_prefix * work.kv_heads,
        layers * slowest.per_token * weights * part / phase.num_parts,
        layers * slowest.per_pair * work.query_heads * _most_pairs(layout.plan),
    )


def _most_pairs(plan: Plan) -> float:
    """The part of all pairs of a query and a key that falls to the rank that has most of them."""
    parts = plan.prefill.num_parts
    return (1 if plan.context_split == "zigzag" else 2 - 1 / parts) / parts


def _combining_s(scenario: Scenario, layout: Layout, ranks: Sequence[int], tokens: Array) -> Array:
    """What the ranks of a stage exchange in its layers, for each chunk: twice a layer they add up, or change places.

    And what a ring adds to its computing, and rows on their way to experts.
    """
    phase, links, model = layout.plan.prefill, scenario.speeds.links, scenario.model
    besides = _dispatch_s(scenario, layout, ranks, tokens)
    if phase.num_parts > 1:
        besides = besides + _ring_s(scenario, layout, ranks)
    group = _group(scenario, [rank for rank in ranks if phase.places[rank].part == 0])
    if group.ranks == 1:
        return besides
    tokens = tokens / phase.num_parts
    exchange, sizes = links.sum_s, [4.0 * model.hidden_size] * 2  # of a token
    sizes += [0.0] * (model.sums_a_layer - 2)  # others are small
    if phase.heads:
        exchange = links.all_to_all_s
        sizes = [count * model.head_dim * scenario.dtype.itemsize for count in heads_moved(phase.heads).busiest()]
    nothing, in_layer = exchange(0.0, group), np.zeros(len(tokens))
    for size in sizes:
        in_layer += nothing + tokens * (exchange(size, group) - nothing)
    result: Array = besides + len(phase.spans[ranks[0]]) * in_layer
    return result


def _ring_s(scenario: Scenario, layout: Layout, ranks: Sequence[int]) -> Array:
    """A step of the ring takes as long as its slowest link, and attention over what has come hides it.

    Where the ranks of a part have a ring each, for heads of their own, those of a host share its way out.
    """
    phase, prefixes = layout.plan.prefill, np.array([chunk.start for chunk in layout.chunks], dtype=float)
    known = np.array([chunk.stop for chunk in layout.chunks], dtype=float)
    num_shards = phase.places[ranks[0]].num_shards
    group = _group(scenario, [rank for rank in ranks if phase.places[rank].shard == 0])
    link = scenario.speeds.links.of(same_host=group.hosts == 1)
    heads = max(len(phase.regions[rank].heads) for rank in ranks)
    at_once = (
        1 if group.hosts == 1 else _group(scenario, [rank for rank in ranks if phase.places[rank].part == 0]).per_host
    )
    rows = at_once * heads * position_bytes(scenario) * known / phase.num_parts
    sending = (phase.num_parts - 1) * (link.latency_s + rows / link.bytes_per_s)
    slowest = max(scenario.speeds.layers[rank].per_pair for rank in ranks) / num_shards
    attending = slowest * (known - prefixes) * (known + prefixes) / 2 / phase.num_parts
    result: Array = len(phase.spans[ranks[0]]) * np.maximum(0.0, sending - attending)
    return result


def _dispatch_s(scenario: Scenario, layout: Layout, ranks: Sequence[int], tokens: Array) -> Array:
    """Where each rank of a stage has tokens of its own and some of the experts."""
    model, num_layers = scenario.model, len(layout.plan.prefill.spans[ranks[0]])
    if not layout.plan.dispatches or model.experts is None:
        return np.zeros(len(tokens))
    what = (model.experts, model.hidden_size, scenario.dtype.itemsize, _group(scenario, ranks), scenario.speeds.links)
    seconds = [dispatch_s(own, *what) for own in tokens / len(ranks)]
    return num_layers * model.expert_share * np.array(seconds)


def _group(scenario: Scenario, ranks: Sequence[int]) -> Group:
    return Group(len(ranks), len({scenario.hosts[rank] for rank in ranks}))


def _crowding(scenario: Scenario, ranks: Sequence[Sequence[int]], num_chunks: int) -> Array:
    """How the time of a chunk in a stage, [stages, chunks], differs from that when all ranks of its host compute.

    Where threads outnumber cores, who waits for a chunk leaves its core to others. Stage s has chunk c in tick s + c.
    """
    result = np.ones((len(ranks), num_chunks))
    if max(scenario.speeds.crowding) == 1:
        return result
    there = Counter(scenario.hosts)
    ticks = np.arange(len(ranks))[:, None] + np.arange(num_chunks)  # [stages, chunks]
    active = {host: np.zeros(len(ranks) + num_chunks - 1) for host in there}
    for stage, of_stage in enumerate(ranks):
        for rank in of_stage:
            active[scenario.hosts[rank]][stage : stage + num_chunks] += 1
    for stage, of_stage in enumerate(ranks):
        factors = []
        for rank in of_stage:
            host, all_at_once = scenario.hosts[rank], scenario.speeds.crowding[rank]
            busy = active[host][ticks[stage]] / there[host]
            factors.append(np.maximum(1.0, all_at_once * busy) / all_at_once)
        result[stage] = np.max(factors, axis=0)
    return result


def _hops(scenario: Scenario, layout: Layout, ranks: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """A chunk's hidden states from each stage to the next: seconds on their link, and before that, [links, chunks]."""
    sizes = np.array([len(chunk) for chunk in layout.chunks]) * 4.0 * scenario.model.hidden_size
    phase = layout.plan.prefill
    sizes /= (len(phase.heads) or 1) * phase.num_parts  # each sends those of its own tokens
    links, hosts = scenario.speeds.links, scenario.hosts
    sending, latency = np.zeros((2, len(ranks) - 1, len(sizes)))
    for number, (before, after) in enumerate(itertools.pairwise(ranks)):
        leaving = Counter(hosts[a] for a, b in zip(before, after, strict=True) if hosts[a] != hosts[b])
        link = links.of(same_host=not leaving)
        at_once = max(leaving.values(), default=1)  # the shards of a host share its way out
        sending[number], latency[number] = at_once * sizes / link.bytes_per_s, link.latency_s
    return sending, latency


def _starts(moved: Moved, finished: Array, taken: Array, layers: Array) -> Array:
    """When each round starts: when the last rank has come so far, [rounds]."""
    chunk = moved.ticks[:, None] - np.arange(len(layers))  # that a stage has in the round's tick: [rounds, stages]
    has_one = (chunk >= 0) & (chunk < taken.shape[1])
    stage, index = np.arange(len(layers)), np.clip(chunk, 0, taken.shape[1] - 1).astype(int)
    left = 1 - np.minimum(1.0, moved.layers_done[:, None] / layers)  # of the stage's layers in this tick
    reached = np.where(has_one, finished[stage, index] - left * taken[stage, index], 0.0)
    result: Array = np.maximum.accumulate(reached.max(axis=1))
    return result


def on_links(links: Links, moved: Moved) -> Array:
    """Seconds of each round's bytes on the busiest link."""
    between, inside = _busiest(moved)
    result: Array = np.maximum(between / links.between.bytes_per_s, inside / links.inside.bytes_per_s)
    return result


def _busiest(moved: Moved) -> tuple[Array, Array]:
    """Bytes of each round on the way out of or into a host, and to a rank from others of its host: the most there."""
    return np.maximum(moved.leaving, moved.entering).max(axis=1), moved.inside.max(axis=1)


def _synced(scenario: Scenario, moved: Moved, starts: Array) -> float:
    """When all rounds are done: their bytes go one after another over the busiest link, latencies side by side."""
    links, (between, inside) = scenario.speeds.links, _busiest(moved)
    seconds = on_links(links, moved)
    queued = seconds.cumsum()
    through = queued + np.maximum.accumulate(starts - (queued - seconds))
    first = np.where(between > 0, links.between.latency_s, np.where(inside > 0, links.inside.latency_s, 0.0))
    later = first if moved.in_steps else np.where(first > 0, links.inside.latency_s, 0.0)
    return float((through + first + (moved.messages - 1) * later).max())
