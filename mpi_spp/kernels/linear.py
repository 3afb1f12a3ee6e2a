"""Matrix products with a layer's weights."""

import torch
import torch.nn.functional as F


class Linear:
    """y = x W^T + b for x [rows, in_features], W [out_features, in_features], b [out_features]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [rows, out_features]."""
        return F.linear(x, self.weight, self.bias)


def fused(parts: list[Linear]) -> Linear:
    """One product in place of several on the same input; their outputs stand side by side."""
    biases = [part.bias for part in parts if part.bias is not None]
    return Linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)
