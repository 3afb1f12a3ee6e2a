"""How fast ranks compute and how fast links are: figures, and what is assumed where nothing was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel.links import ASSUMED_BETWEEN, ASSUMED_INSIDE, Links
from mpi_spp.parallel.schedule import Cost

ASSUMED_FLOPS = 60e9  # of one thread in products of many rows
ASSUMED_READ_BYTES = 10e9  # of weights and cache in a second, for one new token


@dataclass(frozen=True)
class StepCost:
    """Seconds of one new token on a rank: once per_token; per_layer and what is read, for each layer; and per_row for
    each row of the vocabulary, besides reading it.

    `sum_s`: adding up one hidden state with the other ranks of the host amid computing, the wait for the last of them
    included; None where it was not measured.
    """

    per_token: float
    per_layer: float
    weight_bytes_per_s: float
    cache_bytes_per_s: float
    per_row: float = 0.0
    sum_s: float | None = None

    def slower(self, factor: float) -> "StepCost":
        """On a rank that has so many times less of a core."""
        return StepCost(
            self.per_token * factor,
            self.per_layer * factor,
            self.weight_bytes_per_s / factor,
            self.cache_bytes_per_s / factor,
            self.per_row * factor,
            None if self.sum_s is None else self.sum_s * factor,
        )


@dataclass(frozen=True)
class Speeds:
    """Of each rank of a replica: what a whole layer costs in the prefill, and what a new token costs while all ranks of
    its host work (`steps`) or it alone (`alone`), since they share the host's memory.

    `crowding`: how many times slower a rank is, in `layers`, for threads that share cores when all ranks of its host
    work. `origins` tells where the figures of "layers", "steps" and "links" come from.
    """

    layers: Sequence[Cost]
    steps: Sequence[StepCost]
    alone: Sequence[StepCost]
    crowding: Sequence[float]
    links: Links
    origins: dict[str, str]

    def of_first(self, count: int) -> "Speeds":
        """Of so many ranks of these."""
        return replace(
            self,
            layers=self.layers[:count],
            steps=self.steps[:count],
            alone=self.alone[:count],
            crowding=self.crowding[:count],
        )

    def stretched(self, count: int) -> "Speeds":
        """Of so many ranks: further ones are as fast as the first."""
        more = count - len(self.layers)
        return replace(
            self,
            layers=[*self.layers, *[self.layers[0]] * more],
            steps=[*self.steps, *[self.steps[0]] * more],
            alone=[*self.alone, *[self.alone[0]] * more],
            crowding=[*self.crowding, *[self.crowding[0]] * more],
        )

    def without_sums(self) -> "Speeds":
        """With all-reduces as the links alone would have them."""
        steps, alone = ([replace(step, sum_s=None) for step in of] for of in (self.steps, self.alone))
        return replace(self, steps=steps, alone=alone, links=replace(self.links, sums=None))


def assumed_cost(model: ModelConfig, threads: int = 1) -> Cost:
    """A layer's cost where none was measured."""
    flops, pairs = 2 * model.active_parameters, 4 * model.num_attention_heads * model.head_dim
    return Cost(512, 1e-4, 0.0, flops / (ASSUMED_FLOPS * threads), pairs / (ASSUMED_FLOPS * threads))


def assumed_step() -> StepCost:
    """A new token's cost where none was measured."""
    return StepCost(0.0, 0.0, ASSUMED_READ_BYTES, ASSUMED_READ_BYTES)


def assumed(model: ModelConfig, hosts: Sequence[str]) -> Speeds:
    """Nothing measured at all."""
    count, steps = len(hosts), [assumed_step()] * len(hosts)
    links = Links(ASSUMED_INSIDE, ASSUMED_BETWEEN)
    origins = dict.fromkeys(("layers", "steps", "links"), "assumed")
    return Speeds([assumed_cost(model)] * count, steps, steps, [1.0] * count, links, origins)
