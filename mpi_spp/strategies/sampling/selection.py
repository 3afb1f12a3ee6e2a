"""How a run selects its tokens: greedily, or by draws that a seed repeats."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.strategies.sampling.greedy import Greedy
from mpi_spp.strategies.sampling.guided import Guided
from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.penalties import Adjust
from mpi_spp.strategies.sampling.sampler import Sampler

_DRAWN_SEED_BITS = 32  # short enough to be typed again


class Selection(Protocol):
    """Made once for a run; the rows of a call belong to different sequences."""

    def select(
        self,
        head: Head,
        hidden: torch.Tensor,
        comm: Communicator,
        sequence_indices: Sequence[int],
        steps: Sequence[int],
        adjusts: Sequence[Adjust | None] = (),
    ) -> torch.Tensor:
        """One token for each row of the last layer's hidden states [rows, hidden_size]. Collective.

        `sequence_indices` [rows] and `steps` [rows], from 0 up: which sequence a row belongs to, and how many of its
        tokens were selected before. `adjusts` [rows], or none at all: what changes a row's scores first. A rank's slice
        of the vocabulary may be empty or the whole. Returns int64 [rows] on the CPU, the same on all ranks and for any
        split of the vocabulary; NOT_FINITE or NO_TOKEN for a row without finite scores, and for one with a NaN or +inf
        among them.
        """


def selection_of(config: RunConfig) -> Selection:
    """The selection that a configuration asks for; sampling needs its seed: see `with_seed`."""
    chosen = _of_one_sequence(config)
    return Guided(chosen, config.guidance_scale) if config.is_guided else chosen


def _of_one_sequence(config: RunConfig) -> Selection:
    if not config.temperature:
        return Greedy()
    if config.seed is None:
        raise ValueError("sampling without a seed would differ between ranks")
    return Sampler(config.temperature, config.top_k, config.top_p, config.seed)


def with_seed(config: RunConfig, world: World) -> RunConfig:
    """The configuration with a seed if it needs one and has none: rank 0 draws it for all. Collective then."""
    if not config.temperature or config.seed is not None:
        return config
    return replace(config, seed=world.on_rank_0(lambda: secrets.randbits(_DRAWN_SEED_BITS)))
