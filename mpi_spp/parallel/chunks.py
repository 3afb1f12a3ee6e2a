"""A prompt's chunks: how it is cut for a prefill, and what one of them costs in each stage."""

from collections.abc import Sequence

from mpi_spp.parallel.partition import split_chunks, split_evenly
from mpi_spp.parallel.phase import Phase
from mpi_spp.parallel.schedule import Cost, plan_chunks

_TOKENS_OF_A_RANK = 1024  # of a chunk that is split over ranks: longer ones take more room, shorter ones more messages


def cut(num_tokens: int, chunk_size: int | str, prefill: Phase, costs: Sequence[Cost]) -> list[range]:
    """The prompt's chunks. `costs`: of a whole layer on each rank, looked at only where the size is "auto".

    A chunk that is split over ranks has two tokens for each at least.
    """
    parts = prefill.num_parts
    if isinstance(chunk_size, int):
        return split_chunks(num_tokens, chunk_size if parts == 1 else max(chunk_size, 2 * parts))
    if parts > 1 and prefill.places[0].num_stages == 1:
        return split_evenly(num_tokens, -(-num_tokens // (_TOKENS_OF_A_RANK * parts)))
    return plan_chunks(num_tokens, tuple(stage_costs(prefill, costs)))


def stage_costs(prefill: Phase, costs: Sequence[Cost]) -> list[Cost]:
    """What a chunk costs in each stage: its slowest rank counts."""
    slowest: dict[int, Cost] = {}
    for cost, place, span in zip(costs, prefill.places, prefill.spans, strict=True):
        layers = cost.times(len(span) / place.num_parts)
        part = layers.of_tokens_over(place.num_shards) if place.splits_tokens else layers.times(1 / place.num_shards)
        known = slowest.setdefault(place.stage, part)
        slowest[place.stage] = max(known, part, key=lambda one: one.seconds(0, one.longest) / one.longest)
    return [slowest[stage] for stage in sorted(slowest)]
