"""How fast ranks compute and how fast links are: figures, and what is assumed where nothing was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from mpi_spp.model.config import ModelConfig
from mpi_spp.schedule import Cost

ASSUMED_FLOPS = 60e9  # of one thread in products of many rows
ASSUMED_WEIGHT_BYTES = 10e9  # read in a second in products of one row
_ROW_BYTES = 4  # hidden states travel as float32


@dataclass(frozen=True)
class Link:
    """A message of n bytes takes latency_s + n / bytes_per_s. `row_sum_s`: the all-reduce of one hidden state, where
    it was measured.
    """

    latency_s: float
    bytes_per_s: float
    row_sum_s: float | None = None

    def send_s(self, nbytes: float) -> float:
        """One message."""
        return self.latency_s + nbytes / self.bytes_per_s

    def sum_s(self, nbytes: float, num_ranks: int) -> float:
        """An all-reduce: each rank sends and receives twice what is not its own part."""
        if num_ranks == 1:
            return 0.0
        rounds = 2 * (num_ranks - 1).bit_length()
        return max(rounds * self.latency_s, self.row_sum_s or 0.0) + 2 * nbytes * (num_ranks - 1) / num_ranks / (
            self.bytes_per_s
        )


# Two ranks of one machine, and two machines on a network of 10 Gbit/s.
ASSUMED_INSIDE, ASSUMED_BETWEEN = Link(3e-6, 6e9), Link(25e-6, 1.25e9)


@dataclass(frozen=True)
class Speeds:
    """Of each rank of a replica: the cost of a whole layer in the prefill, and bytes of weights read in a second by
    products of one row. `origins` tells where the figures of "layers", "weights" and "link" come from.
    """

    layers: Sequence[Cost]
    weight_bytes_per_s: Sequence[float]
    link: Link
    origins: dict[str, str]


def assumed_cost(model: ModelConfig, threads: int = 1) -> Cost:
    """A layer's cost where none was measured."""
    flops, pairs = 2 * model.layer_parameters, 4 * model.num_attention_heads * model.head_dim
    return Cost(512, 1e-4, 0.0, flops / (ASSUMED_FLOPS * threads), pairs / (ASSUMED_FLOPS * threads))


def assumed(model: ModelConfig, hosts: Sequence[str]) -> Speeds:
    """Nothing measured at all."""
    link = ASSUMED_INSIDE if len(set(hosts)) == 1 else ASSUMED_BETWEEN
    origins = dict.fromkeys(("layers", "weights", "link"), "assumed")
    return Speeds([assumed_cost(model)] * len(hosts), [ASSUMED_WEIGHT_BYTES] * len(hosts), link, origins)
