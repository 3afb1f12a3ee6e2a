"""What one layer keeps of a sequence: its keys and values, as they are or as codes of 8 bits."""

from typing import NamedTuple

import torch


class KeyLayout:
    """How keys lie in a cache: here as columns [..., size, capacity], the right-hand matrices of torch's products.

    A back end has its own. What goes in and out is the same for all: columns [..., size, positions].
    """

    def shape(self, size: int, capacity: int) -> tuple[int, ...]:
        """The last dims of a tensor of keys for `capacity` positions."""
        return (size, capacity)

    def read(self, keys: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Columns [..., size, positions] of [start, stop), a view where it can be."""
        return keys[..., start:stop]

    def take(self, keys: torch.Tensor, start: int, columns: torch.Tensor) -> None:
        """Copy the positions from `start` on into contiguous columns [..., size, positions]."""
        columns.copy_(keys[..., start : start + columns.shape[-1]])

    def put(self, keys: torch.Tensor, start: int, columns: torch.Tensor) -> None:
        """Keep columns [..., size, positions] as the positions from `start` on."""
        keys[..., start : start + columns.shape[-1]] = columns


COLUMNS = KeyLayout()


class LayerCache(NamedTuple):
    """Keys [num_groups, *layout.shape(size, capacity)] and values [num_groups, capacity, size] of `capacity` positions.

    With scales, float32 [num_groups, capacity], they are int8: a head at a position is its scale times its codes.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None
    layout: KeyLayout = COLUMNS

    def of_heads(self, heads: slice) -> "LayerCache":
        """Views of what it keeps of some heads."""
        key_scales, value_scales = (
            None if part is None else part[heads] for part in (self.key_scales, self.value_scales)
        )
        return LayerCache(self.keys[heads], self.values[heads], key_scales, value_scales, self.layout)

    def store(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep keys and values [tokens, num_groups, size] of the positions from `start` on."""
        stop = start + len(keys)
        if self.key_scales is not None and self.value_scales is not None:
            keys, key_scales = quantize_heads(keys)
            values, value_scales = quantize_heads(values)
            self.key_scales[:, start:stop], self.value_scales[:, start:stop] = key_scales.T, value_scales.T
        self.layout.put(self.keys, start, keys.permute(1, 2, 0))
        self.values[:, start:stop] = values.transpose(0, 1)

    def read(self, start: int, stop: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [num_groups, size, positions] and values [num_groups, positions, size] of [start, stop).

        Codes become numbers of this dtype; what is no code is a view of the cache where it can be.
        """
        keys, values = self.layout.read(self.keys, start, stop), self.values[:, start:stop]
        if self.key_scales is None or self.value_scales is None:
            return keys, values
        key_scales, value_scales = self.key_scales[:, start:stop], self.value_scales[:, start:stop]
        return (keys * key_scales[:, None]).to(dtype), (values * value_scales[..., None]).to(dtype)


def quantize_heads(heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 of the shape of heads [..., size], and their scales, float32 [...]: the largest magnitude is 127."""
    heads = heads.float()
    scales = heads.abs().amax(-1) / 127
    divisors = scales.where(scales != 0, 1)  # zeros, or too small for a scale: codes 0
    codes = (heads / divisors[..., None]).round().clamp(-127, 127)  # a scale of few bits may be too small
    return codes.to(torch.int8), scales
