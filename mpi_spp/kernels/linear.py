"""Matrix products with a layer's weights: plain, or with weights that oneDNN has laid out for this CPU."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F

Activation = Callable[[torch.Tensor], torch.Tensor]


class Gated(Protocol):
    """activation(gate) * up for x [rows, in_features], [rows, intermediate_size]."""

    nbytes: int  # of the weights

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """In the dtype of x."""


class Linear(Protocol):
    """y = x W^T + b, with x [rows, in_features] and y [rows, out_features]."""

    nbytes: int  # of the weights

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """y in the dtype of x."""

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        """y in float32, unless the back end has rounded it before: then in the dtype of x."""

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        """Add y to a float32 total [rows, out_features], in place."""


class PlainLinear:
    """torch's own product. Works for every device and dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias
        self.nbytes = weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self(x)

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        total += self(x)


class ExactLinear(PlainLinear):
    """In float32 whatever the dtype of x: for few outputs that decide over much."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight.float())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x.float())


class PackedLinear(PlainLinear):
    """oneDNN's product with weights [out_features, in_features] that are reordered once, not at every call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        # The layout is chosen for few rows: those are bound by memory, many rows hardly care.
        super().__init__(weight, bias)
        self._weight = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), 1)
        self._product: Any = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, self._weight, self._bias, "none", [], "")


class GatedLinear:
    """One product with the weights of gate and up, then the activation."""

    def __init__(self, product: Linear, activation: Activation) -> None:
        self._product, self._activation = product, activation
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._product(x).chunk(2, dim=-1)
        return self._activation(gate).mul_(up)
