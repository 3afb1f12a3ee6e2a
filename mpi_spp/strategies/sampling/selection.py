"""How tokens are selected: greedily, or by draws that a seed repeats."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.request import Draws, new_seed
from mpi_spp.strategies.sampling.greedy import Greedy
from mpi_spp.strategies.sampling.guided import Guided
from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.penalties import Adjust
from mpi_spp.strategies.sampling.sampler import Sampler


class Selection(Protocol):
    """Made once for all rows with the same draws; those of a call belong to different sequences."""

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


@lru_cache(maxsize=64)
def selection_of(draws: Draws, guidance_scale: float = 1.0) -> Selection:
    """The selection that rows of these draws need; a scale of 1 steers away from nothing."""
    chosen: Selection = Greedy()
    if draws.temperature:
        assert draws.seed is not None
        chosen = Sampler(draws.temperature, draws.top_k, draws.top_p, draws.seed)
    return chosen if guidance_scale == 1 else Guided(chosen, guidance_scale)


def select_by_draws(
    head: Head,
    hidden: torch.Tensor,
    comm: Communicator,
    draws: Sequence[Draws],
    guidance_scale: float,
    sequence_indices: Sequence[int],
    steps: Sequence[int],
    adjusts: Sequence[Adjust | None],
) -> torch.Tensor:
    """One token for each row: one selection for all rows that draw alike; see Selection. `draws` [rows]."""
    alike: dict[Draws, list[int]] = {}
    for row, one in enumerate(draws):
        alike.setdefault(one, []).append(row)
    if len(alike) == 1:
        return selection_of(draws[0], guidance_scale).select(head, hidden, comm, sequence_indices, steps, adjusts)
    tokens = torch.empty(len(draws), dtype=torch.int64)
    for one, rows in alike.items():
        of_some = ([of_row[row] for row in rows] for of_row in (sequence_indices, steps, adjusts))
        tokens[rows] = selection_of(one, guidance_scale).select(head, hidden[rows], comm, *of_some)  # type: ignore[arg-type]
    return tokens


def with_seed(config: RunConfig, world: World) -> RunConfig:
    """The configuration with a seed if it needs one and has none: rank 0 draws it for all. Collective then."""
    if not config.temperature or config.seed is not None:
        return config
    return replace(config, seed=world.on_rank_0(new_seed))
