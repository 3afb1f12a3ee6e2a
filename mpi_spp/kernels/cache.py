"""What one layer keeps of a sequence: its keys and values, as they are or as codes of 8 bits."""

from typing import NamedTuple

import torch


class LayerCache(NamedTuple):
    """Keys [num_groups, size, capacity] and values [num_groups, capacity, size] of `capacity` positions.

    With scales, float32 [num_groups, capacity], they are int8: a head at a position is its scale times its codes.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    def store(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep keys and values [tokens, num_groups, size] of the positions from `start` on."""
        stop = start + len(keys)
        if self.key_scales is not None and self.value_scales is not None:
            keys, key_scales = quantize_heads(keys)
            values, value_scales = quantize_heads(values)
            self.key_scales[:, start:stop], self.value_scales[:, start:stop] = key_scales.T, value_scales.T
        self.keys[:, :, start:stop] = keys.permute(1, 2, 0)
        self.values[:, start:stop] = values.transpose(0, 1)

    def read(self, start: int, stop: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [num_groups, size, positions] and values [num_groups, positions, size] of [start, stop).

        Codes become numbers of this dtype; what is no code is a view of the cache.
        """
        keys, values = self.keys[:, :, start:stop], self.values[:, start:stop]
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
