"""When what is computed in a pipelined prefill, from what computing costs: pure functions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from mpi_spp.parallel.partition import split_as, split_evenly

_FINENESS = 1.15  # each first chunk that is tried is so many times as long as the one before
_MOST_CHUNKS = 128  # more are not tried when the first chunk decides their count
_DEEPEST_SHRINK = 16  # a chunk is never shorter than this part of the first one
_WORTH_IT = 1.05  # layers are split unevenly when the slowest stage becomes so much faster: less may be noise
_TYPICAL = (512, 128)  # the prefix and the tokens by which ranks are compared

Numbers = TypeVar("Numbers", float, np.ndarray[Any, np.dtype[np.float64]])
Numbers2D = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Cost:
    """Seconds of a chunk: per_chunk + per_prefix * L + per_token * x + per_pair * (L * x + x**2 / 2).

    x tokens come after L others, so the last factor counts the pairs of a query and a key. More than `longest` tokens
    at once gain nothing, or are slower again since they outgrow the CPU's caches.
    """

    longest: int
    per_chunk: float
    per_prefix: float
    per_token: float
    per_pair: float

    def seconds(self, prefix: Numbers, tokens: Numbers) -> Numbers:
        """What so many tokens after `prefix` others take."""
        rows, pairs = self.per_token * tokens, self.per_pair * tokens * (prefix + tokens / 2)
        return self.per_chunk + self.per_prefix * prefix + rows + pairs

    def tokens_within(self, seconds: float, prefix: int) -> int:
        """How many tokens after `prefix` others can be computed in this time, `longest` at most."""
        left = seconds - self.per_chunk - self.per_prefix * prefix
        if left < 0:
            return 0
        linear = self.per_token + self.per_pair * prefix
        # The root of per_pair / 2 * x**2 + linear * x = left, in the form that holds for per_pair = 0 too.
        slope = linear + math.sqrt(linear**2 + 2 * self.per_pair * left)
        return self.longest if slope == 0 else int(min(2 * left / slope + 1e-6, self.longest))

    def times(self, factor: float) -> "Cost":
        """The cost of so many layers, or on a rank that is so many times slower."""
        rates = (self.per_chunk, self.per_prefix, self.per_token, self.per_pair)
        return Cost(self.longest, *(rate * factor for rate in rates))

    def of_tokens_over(self, count: int) -> "Cost":
        """The cost of a chunk whose tokens and heads so many ranks split: of each the fixed cost is whole."""
        rates = (self.per_prefix, self.per_token, self.per_pair)
        return Cost(self.longest * count, self.per_chunk, *(rate / count for rate in rates))


def makespan(stages: Sequence[Cost], chunks: Sequence[range]) -> float:
    """Seconds until the last stage has computed the last chunk; a stage takes the chunks one after another."""
    prefixes = np.array([chunk.start for chunk in chunks], dtype=float)
    tokens = np.array([len(chunk) for chunk in chunks], dtype=float)
    taken = np.array([stage.seconds(prefixes, tokens) for stage in stages])
    return float(finish_times(taken, np.zeros_like(taken))[-1, -1])


def finish_times(taken: Numbers2D, on_the_way: Numbers2D) -> Numbers2D:
    """When each stage has computed each chunk, [stages, chunks], from the seconds that it takes for each.

    `on_the_way`: how long a chunk takes to come to each stage after the one before has computed it. Meanwhile a stage
    may compute another chunk.
    """
    finished, rows = np.zeros(taken.shape[1]), []
    for busy, way in zip(taken, on_the_way, strict=True):
        total = busy.cumsum()
        # A chunk is finished when all from the one that waited longest for its input on have been computed.
        finished = total + np.maximum.accumulate(finished + way - (total - busy))
        rows.append(finished)
    return np.array(rows)


@lru_cache
def plan_chunks(num_tokens: int, stages: tuple[Cost, ...]) -> list[range]:
    """The chunks that take the stages the least time, of all that are tried: equal ones, and shrinking ones.

    Like stages need the sum of all chunks' times and P-1 times the longest one, so chunks of equal time are the best
    of their count; they shrink as the prefix grows.
    """
    longest = min(num_tokens, *(stage.longest for stage in stages))
    slowest = replace(max(stages, key=lambda stage: stage.seconds(0, longest)), longest=longest)
    tried = []
    for first in _first_lengths(num_tokens, longest):
        tried += [split_evenly(num_tokens, -(-num_tokens // first)), list(_of_equal_time(num_tokens, first, slowest))]
    return min(tried, key=lambda chunks: makespan(stages, chunks))


def _first_lengths(num_tokens: int, longest: int) -> Iterator[int]:
    """The first chunks to try, ever longer, to the longest."""
    length = -(-num_tokens // _MOST_CHUNKS)
    while length < longest:
        yield length
        length = max(length + 1, int(length * _FINENESS))
    yield longest


def _of_equal_time(num_tokens: int, first: int, cost: Cost) -> Iterator[range]:
    """Chunks that take as long as the first one, of `first` tokens, or a little less."""
    limit, start = cost.seconds(0, first), 0
    while start < num_tokens:
        length = max(cost.tokens_within(limit, start), -(-first // _DEEPEST_SHRINK))
        yield range(start, min(start + length, num_tokens))
        start += length


def split_by_cost(num_layers: int, costs: Sequence[Cost]) -> list[range]:
    """Split the layers so that the slowest rank is as fast as it can be; every rank gets one.

    `costs` are those of one layer on each rank. The split is even unless another is faster by more than noise.
    """
    seconds = [cost.seconds(*_TYPICAL) for cost in costs]
    even, counts = split_evenly(num_layers, len(costs)), [1] * len(costs)
    for _ in range(num_layers - len(costs)):  # each layer goes where it is done first: that keeps the latest early
        rank = min(range(len(costs)), key=lambda rank: (counts[rank] + 1) * seconds[rank])
        counts[rank] += 1
    by_cost = split_as(counts)
    return by_cost if _slowest(even, seconds) > _WORTH_IT * _slowest(by_cost, seconds) else even


def _slowest(spans: list[range], seconds: list[float]) -> float:
    return max(len(span) * each for span, each in zip(spans, seconds, strict=True))
