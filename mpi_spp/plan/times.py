"""Seconds of each phase, from what computing and links cost: a model of the run, not a promise."""

from dataclasses import dataclass, replace

from mpi_spp.partition import split_evenly
from mpi_spp.plan.setting import Layout, Setting, cache_of, stage_costs
from mpi_spp.plan.sync import round_bytes
from mpi_spp.schedule import makespan


@dataclass(frozen=True)
class Times:
    """Seconds: of the prefill, of the sync that is not hidden behind it, of one new token."""

    prefill: float
    sync: float
    token: float

    def request(self, new_tokens: int) -> float:
        """From the prompt to the last token; the first one needs a choice and no layers."""
        return self.prefill + self.sync + max(0, new_tokens - 1) * self.token


def times_of(setting: Setting, layout: Layout) -> Times:
    """Of one request that has all ranks to itself."""
    return Times(_prefill_s(setting, layout), _sync_s(setting, layout), _token_s(setting, layout))


def _prefill_s(setting: Setting, layout: Layout) -> float:
    phase, link = layout.plan.prefill, setting.speeds.link
    row, stages = 4 * setting.model.hidden_size, []
    for stage, cost in enumerate(stage_costs(phase, setting.speeds.layers)):
        rank = next(rank for rank, place in enumerate(phase.places) if place.stage == stage)
        shards, sums = phase.places[rank].num_shards, 2 * len(phase.spans[rank])
        hop = link.latency_s if stage else 0.0
        fixed = hop + sums * link.sum_s(0, shards)
        per_token = (row / link.bytes_per_s if stage else 0.0) + sums * (
            link.sum_s(row, shards) - link.sum_s(0, shards)
        )
        stages.append(replace(cost, per_chunk=cost.per_chunk + fixed, per_token=cost.per_token + per_token))
    return makespan(stages, layout.chunks)


def _sync_s(setting: Setting, layout: Layout) -> float:
    """What is left after the last tick: the last round that moves anything."""
    link, last = setting.speeds.link, 0.0
    for rank in range(layout.num_ranks):
        moved = [max(part) for part in round_bytes(setting, layout, rank) if any(part)]
        last = max(last, link.send_s(moved[-1]) if moved else 0.0)
    return last


def _token_s(setting: Setting, layout: Layout) -> float:
    """One token of one sequence: stages work one after another, shards side by side."""
    phase, link, row = layout.plan.decode, setting.speeds.link, 4 * setting.model.hidden_size
    stages: dict[int, float] = {}
    for rank, place in enumerate(phase.places):
        sums = 2 * len(phase.spans[rank]) * link.sum_s(row, place.num_shards)
        stages[place.stage] = max(stages.get(place.stage, 0.0), _read_s(setting, layout, rank) + sums)
    hops = (len(stages) - 1) * link.send_s(row) + (link.send_s(row) if len(stages) > 1 else 0.0)
    return sum(stages.values()) + hops + _choice_s(setting, layout)


def _read_s(setting: Setting, layout: Layout, rank: int) -> float:
    """A rank reads its weights and, on average, the cache at half of the answer."""
    phase = layout.plan.decode
    of_shares = setting.sizes().of_shares(len(layout.plan.shares))
    weights = sum(of_shares[share] for share in phase.shares[rank]) * len(phase.spans[rank])
    cache = cache_of(setting, phase, rank, setting.prompt_tokens + setting.new_tokens // 2).nbytes
    return (weights + cache) / setting.speeds.weight_bytes_per_s[rank]


def _choice_s(setting: Setting, layout: Layout) -> float:
    """Each rank multiplies its slice of the vocabulary; one reduction."""
    rows = split_evenly(setting.model.vocab_size, layout.num_ranks)
    of_head = setting.sizes().of_head
    slowest = max(of_head(rows[rank]) / speed for rank, speed in enumerate(setting.speeds.weight_bytes_per_s))
    return slowest + setting.speeds.link.sum_s(8, layout.num_ranks)
