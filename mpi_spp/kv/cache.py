"""The keys and values of one sequence, preallocated."""

import torch

from mpi_spp.kernels.cache import LayerCache


class KVCache:
    """Keys [layers, num_key_value_heads, head_dim, capacity], values [layers, num_key_value_heads, capacity, head_dim].

    Both are the right-hand matrices of attention's products as they lie: a transposed one is read at half the speed.
    With dtype int8 they are codes, with scales [2, layers, num_key_value_heads, capacity] of keys and of values.
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
        heads = (len(layers), num_key_value_heads)
        self.keys = torch.empty((*heads, head_dim, capacity), dtype=dtype, device=device)
        self.values = torch.empty((*heads, capacity, head_dim), dtype=dtype, device=device)
        self.scales = None
        if dtype == torch.int8:
            self.scales = torch.empty((2, *heads, capacity), dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Of the whole capacity."""
        return self.position_bytes * len(self.layers) * self.capacity

    @property
    def device(self) -> torch.device:
        """Where the cache is."""
        return self.keys.device

    @property
    def position_bytes(self) -> int:
        """The size of one layer's keys, values and scales of one position, over all heads."""
        _, heads, head_dim, _ = self.keys.shape
        return 2 * heads * (head_dim * self.keys.element_size() + (0 if self.scales is None else 4))

    def of_layer(self, layer: int) -> LayerCache:
        """Views of what one layer keeps."""
        index = layer - self.layers.start
        if self.scales is None:
            return LayerCache(self.keys[index], self.values[index])
        return LayerCache(self.keys[index], self.values[index], self.scales[0, index], self.scales[1, index])

    def pack(self, layers: range, positions: range, rows: torch.Tensor) -> None:
        """Copy a part of the cache into contiguous rows uint8 [len(layers) * len(positions), position_bytes]."""
        for part, packed in self._parts(layers, positions, rows):
            packed.copy_(part)

    def unpack(self, layers: range, positions: range, rows: torch.Tensor) -> None:
        """Copy rows that `pack` of another rank's cache has filled to where they belong."""
        for part, packed in self._parts(layers, positions, rows):
            part.copy_(packed)

    def _parts(self, layers: range, positions: range, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The parts' views in the cache, each with its place in the rows: one kind after the other.

        Scales come first, where they are aligned: head_dim is even, since rotation takes pairs.
        """
        first = layers.start - self.layers.start
        span, stretch = slice(first, first + len(layers)), slice(positions.start, positions.stop)
        parts = [self.keys[span, :, :, stretch], self.values[span, :, stretch]]
        if self.scales is not None:
            parts.insert(0, self.scales[:, span, :, stretch])
        places = rows.view(-1).split([part.nbytes for part in parts])
        return [(part, place.view(part.dtype).view(part.shape)) for part, place in zip(parts, places, strict=True)]
