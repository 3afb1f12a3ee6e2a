"""The keys and values of one sequence, or of a part of its positions, preallocated."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from mpi_spp.kernels.cache import COLUMNS, KeyLayout, LayerCache
from mpi_spp.parallel.layout import EVERYTHING, Held

Made = TypeVar("Made")


class KVCache:
    """Keys [layers, heads, *layout.shape(head_dim, capacity)] and values [layers, heads, capacity, head_dim] by slot.

    Both are the right-hand matrices of attention's products as they lie: a transposed one is read at half the speed.
    With dtype int8 they are codes, with scales [2, layers, heads, capacity] of keys and of values. `layers` and `heads`
    are the model's layers and key/value heads that it holds, and count as the model counts.
    """

    def __init__(
        self,
        layers: range,
        heads: range,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
        layout: KeyLayout = COLUMNS,
        empty: Callable[..., torch.Tensor] = torch.empty,
        held: Held = EVERYTHING,
    ) -> None:
        """`empty`: makes its tensors, as torch.empty does. `held`: which positions its slots are for."""
        self.layers, self.heads, self.held = layers, heads, held
        self.capacity, self.layout = capacity, layout
        self._maker = empty  # what the tensors lie in may be given back with it
        self._made: dict[Any, Any] = {}
        all_heads = (len(layers), len(heads))
        self.keys = empty((*all_heads, *layout.shape(head_dim, capacity)), dtype=dtype, device=device)
        self.values = empty((*all_heads, capacity, head_dim), dtype=dtype, device=device)
        self.scales = None
        if dtype == torch.int8:
            self.scales = empty((2, *all_heads, capacity), dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Of the whole capacity, as the layout of the keys rounds it."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def device(self) -> torch.device:
        """Where the cache is."""
        return self.keys.device

    @property
    def position_bytes(self) -> int:
        """The size of one head's key, value and scales at one position of one layer."""
        return 2 * (self.values.shape[-1] * self.values.element_size() + (0 if self.scales is None else 4))

    def of_layer(self, layer: int, heads: range | None = None) -> LayerCache:
        """Views of what one layer keeps of some heads; None: of all that are here."""
        return self.once((layer, heads), lambda: self._view(layer, heads))

    def once(self, what: Any, make: Callable[[], Made]) -> Made:
        """What is made of the cache under this name, and kept with it: a decode asks for it at every step."""
        if what not in self._made:
            self._made[what] = make()
        made: Made = self._made[what]
        return made

    def _view(self, layer: int, heads: range | None) -> LayerCache:
        index = layer - self.layers.start
        key_scales, value_scales = (
            (None, None) if self.scales is None else (self.scales[0, index], self.scales[1, index])
        )
        whole = LayerCache(self.keys[index], self.values[index], key_scales, value_scales, self.layout)
        return whole if heads is None else whole.of_heads(_within(heads, self.heads))

    def pack(self, layers: range, heads: range, positions: range, rows: torch.Tensor) -> None:
        """Copy a part of the cache into contiguous rows uint8 [layers * heads * positions, position_bytes].

        The positions lie side by side: they are within one of the ranges that are held. The rows' bytes do not depend
        on the layout: scales [2, layers, heads, positions] if there are any, then keys [layers, heads, head_dim,
        positions], then values [layers, heads, positions, head_dim].
        """
        (keys, columns), others = self._parts(layers, heads, positions, rows)
        self.layout.take(keys, self.held.slot(positions.start), columns)
        for part, packed in others:
            packed.copy_(part)

    def unpack(self, layers: range, heads: range, positions: range, rows: torch.Tensor) -> None:
        """Copy rows that `pack` of another rank's cache has filled to where they belong."""
        (keys, columns), others = self._parts(layers, heads, positions, rows)
        self.layout.put(keys, self.held.slot(positions.start), columns)
        for part, packed in others:
            part.copy_(packed)

    def _parts(
        self, layers: range, heads: range, positions: range, rows: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
        """Keys at all positions and their columns in the rows; then views of the rest, each with its place there.

        Scales come first, where they are aligned: head_dim is even, since rotation takes pairs.
        """
        span, some = _within(layers, self.layers), _within(heads, self.heads)
        first = self.held.slot(positions.start)
        stretch = slice(first, first + len(positions))
        parts = [self.values[span, some, stretch]]
        if self.scales is not None:
            parts.insert(0, self.scales[:, span, some, stretch])
        *places, columns, last = rows.view(-1).split([*(part.nbytes for part in parts), parts[-1].nbytes])
        others = zip(parts, (*places, last), strict=True)
        return (
            (self.keys[span, some], columns.view(parts[-1].dtype).view(parts[-1].mT.shape)),
            [(part, place.view(part.dtype).view(part.shape)) for part, place in others],
        )


def _within(some: range, all_: range) -> slice:
    """Where some of the layers or heads are among all that are held."""
    return slice(some.start - all_.start, some.stop - all_.start)
