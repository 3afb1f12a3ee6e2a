"""Seconds of each phase, from what computing and links cost: a model of the run, not a promise."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mpi_spp.forecast.scenario import Layout, Scenario, position_bytes
from mpi_spp.forecast.sync import Moved
from mpi_spp.forecast.timeline import timeline_of
from mpi_spp.forecast.work import largest_work
from mpi_spp.parallel.links import Group
from mpi_spp.parallel.partition import split_evenly

_CANDIDATE_BYTES = 8  # a logit and its token


@dataclass(frozen=True)
class Times:
    """Seconds: of the prefill, of the sync that is not hidden behind it, of the first token, of each later one."""

    prefill: float
    sync: float
    first: float
    token: float

    def request(self, new_tokens: int) -> float:
        """From the prompt to the last token."""
        return self.prefill + self.sync + self.first + max(0, new_tokens - 1) * self.token


def times_of(scenario: Scenario, layout: Layout, moved: Moved | None) -> Times:
    """Of one request that has all ranks to itself; `moved`: by the sync."""
    found, choice = timeline_of(scenario, layout, moved), _choice_s(scenario, layout)
    place = layout.plan.prefill.places[0]
    first = choice + _from_last_s(scenario, place.num_stages > 1 or place.splits_tokens or place.num_parts > 1)
    return Times(found.prefill, found.exposed, first, _step_s(scenario, layout) + choice)


def _step_s(scenario: Scenario, layout: Layout) -> float:
    """One token of one sequence through all layers: stages work one after another, shards side by side."""
    places = layout.plan.decode.places
    num_stages, row = places[0].num_stages, 4 * scenario.model.hidden_size
    stages: list[list[int]] = [[] for _ in range(num_stages)]
    for rank, place in enumerate(places):
        stages[place.stage].append(rank)
    links, hosts, hops = scenario.speeds.links, scenario.hosts, 0.0
    for before, after in itertools.pairwise(stages):
        crosses = any(hosts[a] != hosts[b] for a, b in zip(before, after, strict=True))
        hops += links.of(same_host=not crosses).send_s(row)
    return sum(_stage_s(scenario, layout, ranks) for ranks in stages) + hops + _from_last_s(scenario, num_stages > 1)


def _stage_s(scenario: Scenario, layout: Layout, ranks: Sequence[int]) -> float:
    """Its ranks add up behind attention and behind the MLP, so each half of a layer takes as long as on the slowest."""
    phase, speeds, hosts = layout.plan.decode, scenario.speeds, [scenario.hosts[rank] for rank in ranks]
    steps = speeds.alone if len(set(hosts)) == len(ranks) else speeds.steps
    positions = (scenario.prompt_tokens + scenario.new_tokens // 2) / phase.num_parts  # on average
    weights, of_head = scenario.sizes().active(), positions * position_bytes(scenario)
    blocks = {phase.shares[rank] for rank in ranks}
    works = {block: largest_work(scenario.model, layout.plan.shares, [block]) for block in blocks}
    attention = mlp = fixed = 0.0
    for rank in ranks:
        step, work = steps[rank], works[phase.shares[rank]]
        cache_s = len(phase.regions[rank].heads) * of_head / step.cache_bytes_per_s
        attention = max(attention, work.attention * weights / step.weight_bytes_per_s + cache_s)
        mlp = max(mlp, work.mlp * weights / step.weight_bytes_per_s)
        fixed = max(fixed, len(phase.shares[rank]) * step.per_layer)  # a share is a call of its own
    per_token = max(steps[rank].per_token for rank in ranks)
    sums = (
        scenario.model.sums_a_layer * _row_sum_s(scenario, ranks, hosts)
        if phase.places[ranks[0]].num_shards > 1
        else 0.0
    )
    if phase.num_parts > 1:
        sums = _merge_s(scenario, layout, Group(len(ranks), len(set(hosts))))
    return per_token + len(phase.spans[ranks[0]]) * (attention + mlp + fixed + sums)


def _merge_s(scenario: Scenario, layout: Layout, group: Group) -> float:
    """The parts of a layer's attention to all ranks, share by share: as long as a sum of so many bytes."""
    shares = [len(share.query_heads) for share in layout.plan.shares if len(share.query_heads)]
    of_head = 4 * (scenario.model.head_dim + 1) * group.ranks / 2
    return sum(scenario.speeds.links.sum_s(count * of_head, group) for count in shares)


def _row_sum_s(scenario: Scenario, ranks: Sequence[int], hosts: Sequence[str]) -> float:
    """One hidden state over the ranks of a stage: as it was measured amid computing, where it was."""
    links, group = scenario.speeds.links, Group(len(ranks), len(set(hosts)))
    row = 4 * scenario.model.hidden_size
    known = [step for rank in ranks if (step := scenario.speeds.steps[rank].sum_s) is not None]
    if not known or group.per_host == 1:
        return links.sum_s(row, group)
    return max(max(known) + links.sum_between_s(row, group), links.sum_s(row, group))


def _from_last_s(scenario: Scenario, has_few: bool) -> float:
    """Where not all ranks have the last token's hidden state, one gives it to all."""
    if not has_few:
        return 0.0
    return scenario.speeds.links.broadcast_s(4 * scenario.model.hidden_size, _everyone(scenario))


def _choice_s(scenario: Scenario, layout: Layout) -> float:
    """Each rank multiplies its slice of the vocabulary, all at once, and looks through it; one reduction."""
    vocabulary = scenario.model.vocab_size
    row_bytes = scenario.sizes().of_head(range(vocabulary)) / vocabulary
    slices = split_evenly(vocabulary, layout.num_ranks)
    slowest = max(
        len(rows) * (row_bytes / step.weight_bytes_per_s + step.per_row)
        for rows, step in zip(slices, scenario.speeds.steps, strict=True)
    )
    return slowest + scenario.speeds.links.sum_s(_CANDIDATE_BYTES, _everyone(scenario))


def _everyone(scenario: Scenario) -> Group:
    return Group(len(scenario.hosts), len(set(scenario.hosts)))
