"""A layer's experts on one rank: all rows here, or rows that go to whoever has their experts and come back."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from mpi_spp.kernels.experts import Routing
from mpi_spp.kernels.layer import Layer

# What the experts of this rank give for rows [rows, hidden_size], float32 of the same shape, by the experts and weights
# [rows, top_k] of the rows; other experts give nothing.
Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Dispatch(Protocol):
    """How rows reach the ranks that have their experts."""

    shares: Sequence[int]  # of every layer, whose experts this rank computes for all ranks
    gives_all: (
        bool  # whether the ranks have the same rows, and all get the sums of them: then nothing is to be added up
    )

    def takes(self, rows: int) -> bool:
        """Whether so many rows go this way. Where not, the ranks have the same rows and add up their outputs."""

    def __call__(self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, compute: Compute) -> torch.Tensor:
        """The sums of all experts' outputs for x [rows, hidden_size], float32 of the same shape. Collective."""


@dataclass
class ExpertLoad:
    """Pairs of a token and an expert, by expert, over all layers since the last `clear`.

    `routed`: each is counted by one of the ranks that route it. `computed`: here, by an expert or a part of it.
    """

    routed: Counter[int] = field(default_factory=Counter)
    computed: Counter[int] = field(default_factory=Counter)

    def by_expert(self, count: int) -> dict[str, list[int]]:
        """Both for each of so many experts, as plain values."""
        of_both = {"routed": self.routed, "computed": self.computed}
        return {name: [pairs[number] for number in range(count)] for name, pairs in of_both.items()}

    def clear(self) -> None:
        """Begin anew."""
        self.routed.clear()
        self.computed.clear()


def add_experts(
    hidden: torch.Tensor,
    normed: torch.Tensor,
    shares: Sequence[Layer],
    load: ExpertLoad,
    counts_routed: bool,
    dispatch: tuple[Dispatch, Sequence[Layer]] | None = None,
) -> None:
    """Add the outputs of these shares' experts for `normed` to `hidden`, float32, both [tokens, hidden_size].

    `counts_routed`: whether the load counts these rows as routed; of ranks with the same rows one does. `dispatch`: to
    the experts of all ranks instead, with the shares whose experts this rank computes for them.
    """
    router = shares[0].router
    assert router is not None
    routing = router(normed)
    if counts_routed:
        load.routed.update(routing.counts)
    for share in shares:
        if share.experts is not None and share.experts.shared is not None:
            share.experts.shared.add_to(hidden, normed)
    if dispatch is None:
        _compute(hidden, normed, routing, shares, load)
        return
    send, of_rank = dispatch

    def compute(x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        outputs = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        _compute(outputs, x, Routing(experts, weights), of_rank, load)
        return outputs

    hidden += send(normed, routing.experts, routing.weights, compute)


def _compute(total: torch.Tensor, x: torch.Tensor, routing: Routing, shares: Sequence[Layer], load: ExpertLoad) -> None:
    parts = [share.experts for share in shares if share.experts is not None]
    here = {number for part in parts for number in part.experts}
    load.computed.update({number: count for number, count in routing.counts.items() if number in here})
    for part in parts:
        part.add_to(total, x, routing)
