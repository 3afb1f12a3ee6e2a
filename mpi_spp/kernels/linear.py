"""Matrix products with a layer's weights: plain, or with weights that oneDNN has laid out for this CPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# y = x W^T + b: x [rows, in_features] -> y [rows, out_features]
Linear = Callable[[torch.Tensor], torch.Tensor]


class PlainLinear:
    """torch's own product. Works for every device and dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """oneDNN's product with weights [out_features, in_features] that are reordered once, not at every call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        # The layout is chosen for few rows: those are bound by memory, many rows hardly care.
        self._weight = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), 1)
        self._bias = bias
        self._product: Any = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, self._weight, self._bias, "none", [], "")


BACKENDS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], Linear]] = {
    "plain": PlainLinear,
    "packed": PackedLinear,
}


def backends_for(dtype: torch.dtype, device: torch.device) -> list[str]:
    """The back ends that this build of torch and this device have for a dtype."""
    packed = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()
    return ["plain", "packed"] if packed else ["plain"]
