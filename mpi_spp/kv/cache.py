"""The keys and values of one sequence, preallocated."""

import torch


class KVCache:
    """Keys [layers, num_key_value_heads, head_dim, capacity], values [layers, num_key_value_heads, capacity, head_dim].

    Both are the right-hand matrices of attention's products as they lie: a transposed one is read at half the speed.
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
        self.keys = torch.empty((len(layers), num_key_value_heads, head_dim, capacity), dtype=dtype, device=device)
        self.values = torch.empty((len(layers), num_key_value_heads, capacity, head_dim), dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Of the whole capacity."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def position_size(self) -> int:
        """How many numbers one layer holds for one position: keys and values of all heads."""
        return 2 * self.keys.shape[1] * self.keys.shape[2]

    def of_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one layer's keys [num_key_value_heads, head_dim, capacity] and values [.., capacity, head_dim]."""
        index = layer - self.layers.start
        return self.keys[index], self.values[index]

    def pack(self, layers: range, positions: range, rows: torch.Tensor) -> None:
        """Copy a part of the cache into contiguous rows [len(layers) * len(positions), position_size]."""
        for part, packed in self._parts(layers, positions, rows):
            packed.copy_(part)

    def unpack(self, layers: range, positions: range, rows: torch.Tensor) -> None:
        """Copy rows that `pack` of another rank's cache has filled to where they belong."""
        for part, packed in self._parts(layers, positions, rows):
            part.copy_(packed)

    def _parts(self, layers: range, positions: range, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The parts' views in the cache, each with its place in the rows: first all keys, then all values."""
        first = layers.start - self.layers.start
        keys = self.keys[first : first + len(layers), :, :, positions.start : positions.stop]
        values = self.values[first : first + len(layers), :, positions.start : positions.stop]
        packed_keys, packed_values = rows.view(-1).chunk(2) if rows.numel() else (rows, rows)
        return [(keys, packed_keys.view(keys.shape)), (values, packed_values.view(values.shape))]
