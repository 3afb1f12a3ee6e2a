"""The keys and values of one sequence, preallocated."""

import torch


class KVCache:
    """Keys and values of consecutive layers in one tensor [layers, 2, num_key_value_heads, capacity, head_dim].

    A head's positions are contiguous, so that attention reads keys and values as plain matrices, without a copy.
    """

    def __init__(
        self,
        layers: range,
        num_key_value_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        self.layers = layers
        self.capacity = capacity
        shape = (len(layers), 2, num_key_value_heads, capacity, head_dim)
        self.data = torch.empty(shape, dtype=dtype, device=device)

    def write(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values [tokens, num_key_value_heads, head_dim] of one layer from position `start` on."""
        stop = start + keys.shape[0]
        of_layer = self.data[layer - self.layers.start]
        of_layer[0, :, start:stop] = keys.transpose(0, 1)
        of_layer[1, :, start:stop] = values.transpose(0, 1)

    def read(self, layer: int, positions: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one layer's keys and values, each [num_key_value_heads, positions, head_dim]."""
        part = self.block(range(layer, layer + 1), positions)[0]
        return part[0], part[1]

    def block(self, layers: range, positions: range) -> torch.Tensor:
        """A view of [layers, 2, num_key_value_heads, positions, head_dim]."""
        first = layers.start - self.layers.start
        return self.data[first : first + len(layers), :, :, positions.start : positions.stop]
