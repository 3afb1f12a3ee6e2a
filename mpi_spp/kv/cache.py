"""The keys and values of one sequence, preallocated."""

import torch

from mpi_spp.kernels.cache import LayerCache


class KVCache:
    """Keys [layers, heads, head_dim, capacity], values [layers, heads, capacity, head_dim] of some key/value heads.

    Both are the right-hand matrices of attention's products as they lie: a transposed one is read at half the speed.
    With dtype int8 they are codes, with scales [2, layers, heads, capacity] of keys and of values.
    """

    def __init__(
        self,
        layers: range,
        heads: range,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        self.layers, self.heads = layers, heads
        self.capacity = capacity
        sizes = (len(layers), len(heads))
        self.keys = torch.empty((*sizes, head_dim, capacity), dtype=dtype, device=device)
        self.values = torch.empty((*sizes, capacity, head_dim), dtype=dtype, device=device)
        self.scales = None
        if dtype == torch.int8:
            self.scales = torch.empty((2, *sizes, capacity), dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Of the whole capacity."""
        return self.position_bytes * len(self.layers) * len(self.heads) * self.capacity

    @property
    def device(self) -> torch.device:
        """Where the cache is."""
        return self.keys.device

    @property
    def position_bytes(self) -> int:
        """The size of key, value and scales of one head of one layer at one position."""
        head_dim = self.values.shape[3]
        return 2 * (head_dim * self.keys.element_size() + (0 if self.scales is None else 4))

    def of_layer(self, layer: int, heads: range | None = None) -> LayerCache:
        """Views of what one layer keeps, or some of its heads."""
        index, span = layer - self.layers.start, self._places_of(self.heads if heads is None else heads)
        if self.scales is None:
            return LayerCache(self.keys[index, span], self.values[index, span])
        return LayerCache(
            self.keys[index, span], self.values[index, span], self.scales[0, index, span], self.scales[1, index, span]
        )

    def pack(self, layers: range, heads: range, positions: range, rows: torch.Tensor) -> None:
        """Copy a part of the cache into contiguous rows uint8 [layers * heads * positions, position_bytes]."""
        for part, packed in self._parts(layers, heads, positions, rows):
            packed.copy_(part)

    def unpack(self, layers: range, heads: range, positions: range, rows: torch.Tensor) -> None:
        """Copy rows that `pack` of another rank's cache has filled to where they belong."""
        for part, packed in self._parts(layers, heads, positions, rows):
            part.copy_(packed)

    def _places_of(self, heads: range) -> slice:
        return slice(heads.start - self.heads.start, heads.stop - self.heads.start)

    def _parts(
        self, layers: range, heads: range, positions: range, rows: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The parts' views in the cache, each with its place in the rows: one kind after the other.

        Scales come first, where they are aligned: head_dim is even, since rotation takes pairs.
        """
        first = layers.start - self.layers.start
        span, stretch, of_heads = (
            slice(first, first + len(layers)),
            slice(positions.start, positions.stop),
            self._places_of(heads),
        )
        parts = [self.keys[span, of_heads, :, stretch], self.values[span, of_heads, stretch]]
        if self.scales is not None:
            parts.insert(0, self.scales[:, span, of_heads, stretch])
        places = rows.view(-1).split([part.nbytes for part in parts])
        return [(part, place.view(part.dtype).view(part.shape)) for part, place in zip(parts, places, strict=True)]
