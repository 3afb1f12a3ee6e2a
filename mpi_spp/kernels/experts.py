"""A layer's experts: which of them a row takes, and their outputs, added up by weight (Shazeer et al., 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from mpi_spp.kernels.layer import MLPPart
from mpi_spp.kernels.linear import Linear


@dataclass(frozen=True)
class Routing:
    """The experts of each row, int64 [rows, top_k], and their weights, float32 [rows, top_k]."""

    experts: torch.Tensor
    weights: torch.Tensor

    @cached_property
    def _by_expert(self) -> tuple[torch.Tensor, torch.Tensor, dict[int, range]]:
        """Rows and weights of all pairs in the order of experts, and the place of each expert's that has any."""
        flat = self.experts.flatten()
        order = flat.argsort(stable=True)
        places, start = {}, 0
        for expert, count in enumerate(torch.bincount(flat).tolist()):
            if count:
                places[expert] = range(start, start + count)
                start += count
        return order // self.experts.shape[1], self.weights.flatten()[order], places

    @property
    def counts(self) -> dict[int, int]:
        """How many rows each expert gets, of those that get any."""
        return {expert: len(place) for expert, place in self._by_expert[2].items()}

    def groups(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """An expert, its rows int64 [n] and their weights float32 [n], for each expert that has any."""
        rows, weights, places = self._by_expert
        for expert, place in places.items():
            part = slice(place.start, place.stop)
            yield expert, rows[part], weights[part]


class Router:
    """Takes the best few experts of every row."""

    def __init__(self, product: Linear, top_k: int, normalized: bool) -> None:
        """`product`: scores of all experts; `normalized`: the weights of a row's experts add up to 1."""
        self._product, self._top_k, self._normalized = product, top_k, normalized

    def __call__(self, x: torch.Tensor) -> Routing:
        """Of rows x [rows, hidden_size]."""
        weights, experts = self._product.to_float32(x).softmax(-1).topk(self._top_k)
        return Routing(experts, weights / weights.sum(-1, keepdim=True) if self._normalized else weights)


@dataclass
class SharedExpert:
    """Some columns of the expert that every row goes through, behind a gate with one output."""

    mlp: MLPPart
    gate: Linear

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        """Add the outputs for x [rows, hidden_size] to float32 [rows, hidden_size], in place."""
        total.addcmul_(self.mlp(x).float(), self.gate.to_float32(x).sigmoid())


@dataclass
class ExpertsPart:
    """The experts of a share of a layer by their number: some of all, or some columns of each."""

    experts: dict[int, MLPPart]
    shared: SharedExpert | None = None

    @property
    def nbytes(self) -> int:
        """Of the products' weights."""
        shared = self.shared.mlp.nbytes if self.shared is not None else 0
        return shared + sum(expert.nbytes for expert in self.experts.values())

    def add_to(self, total: torch.Tensor, x: torch.Tensor, routing: Routing) -> None:
        """Add what the experts that are here give for x [rows, hidden_size] to float32 [rows, hidden_size], in place.

        An expert's rows are one product; experts without rows cost nothing.
        """
        for number, rows, weights in routing.groups():
            expert = self.experts.get(number)
            if expert is not None:
                total.index_add_(0, rows, expert(x[rows]).float().mul_(weights[:, None]))
