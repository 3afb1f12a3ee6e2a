"""Weight-only quantisation: weights of 8 or 4 bits with a scale for every group of inputs.

8 bits: w = scale * code, codes from -127 to 127. 4 bits: w = minimum + scale * code, codes from 0 to 15. The layout is
that of native/linear.c: panels of two blocks of 16 outputs, in each block one group after the other, and in each group
the codes, 16 scales and, with 4 bits, 16 minima in half precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from mpi_spp.kernels.linear import Activation, Linear, PlainLinear

BITS = {"int8": 8, "int4": 4}
BLOCK, PANEL = 16, 32
_SHRINKINGS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's range: to clip the extremes often errs less over all


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix [out_features, in_features] as `data` uint8 [panels, 2, groups, bytes]; `group` inputs share a scale."""

    data: torch.Tensor
    out_features: int
    in_features: int
    bits: int
    group: int

    def panels(self, outputs: range) -> "QuantizedWeight":
        """The panels that hold these outputs; the first of them is number `outputs.start % PANEL` there."""
        first, last = outputs.start // PANEL, -(-outputs.stop // PANEL)
        size = min(last * PANEL, self.out_features) - first * PANEL
        return replace(self, data=self.data[first:last], out_features=size)

    def to(self, device: torch.device) -> "QuantizedWeight":
        """The same on a device."""
        return replace(self, data=self.data.to(device))


def quantize(weight: torch.Tensor, bits: int, group: int) -> QuantizedWeight:
    """Quantise [out_features, in_features]; `group` is a multiple of 16."""
    out_features, in_features = weight.shape
    groups, rows = -(-in_features // group), -(-out_features // PANEL) * PANEL
    padded = F.pad(weight.float(), (0, groups * group - in_features, 0, rows - out_features))
    parts = padded.view(rows, groups, group)
    fields = _int4(parts) if bits == 4 else _int8(parts)
    data = torch.cat(fields, dim=-1).view(-1, 2, groups, sum(field.shape[-1] for field in fields))
    return QuantizedWeight(data.contiguous(), out_features, in_features, bits, group)


def dequantize(weight: QuantizedWeight) -> torch.Tensor:
    """The matrix that the codes stand for, float32 [out_features, in_features]."""
    matrix = widen(weight.data, weight.bits, weight.group).transpose(1, 2).flatten(0, 1)
    return matrix[: weight.out_features, : weight.in_features]


def widen(data: torch.Tensor, bits: int, group: int, empty: Callable[..., torch.Tensor] | None = None) -> torch.Tensor:
    """Return the numbers in some panels [panels, 2, groups, bytes] in the order of their codes.

    Float32 [blocks, groups * group, 16]; `empty` makes the tensor for them from its shape.
    """
    blocks = data.flatten(0, 1)  # [blocks, groups, bytes]
    shape = (blocks.shape[0], blocks.shape[1] * group, BLOCK)
    numbers = torch.empty(shape, device=data.device) if empty is None else empty(*shape)
    by_group = numbers.unflatten(1, (-1, group))
    codes, scales, *minima = blocks.split((group * BLOCK * bits // 8, *[2 * BLOCK] * (1 if bits == 8 else 2)), dim=-1)
    if bits == 8:
        by_group.copy_(codes.view(torch.int8).unflatten(-1, (-1, BLOCK)))
        by_group.mul_(_halves(scales))
        return numbers
    # Bytes [.., group / 8, 16 outputs, 2 of a pair, 2] of two codes each; the pairs of a byte are two apart.
    by_byte = codes.unflatten(-1, (-1, BLOCK, 2, 2)).permute(0, 1, 2, 5, 4, 3)
    by_pair = by_group.unflatten(2, (-1, 2, 2, 2))  # [.., group / 8, byte, half, of a pair, 16]
    by_pair[..., 0, :, :] = by_byte & 15
    by_pair[..., 1, :, :] = by_byte >> 4
    by_group.mul_(_halves(scales)).add_(_halves(minima[0]))
    return numbers


def part_of(
    weight: QuantizedWeight, rows: Sequence[range], columns: range, dtype: torch.dtype
) -> "QuantizedWeight | torch.Tensor":
    """Some outputs and inputs; numbers in this dtype where these do not begin and end with panels and groups."""
    edges = [edge for span in rows for edge in (span.start, span.stop)]
    if not (
        _whole(edges, PANEL, weight.out_features)
        and _whole((columns.start, columns.stop), weight.group, weight.in_features)
    ):
        matrix = dequantize(weight)[:, columns.start : columns.stop]
        return joined([matrix[span.start : span.stop] for span in rows]).to(dtype)
    groups = slice(columns.start // weight.group, -(-columns.stop // weight.group))
    panels = [weight.data[span.start // PANEL : -(-span.stop // PANEL), :, groups] for span in rows]
    sizes = {"out_features": sum(map(len, rows)), "in_features": len(columns)}
    return replace(weight, data=joined(panels), **sizes)


def alternating_part_of(
    weight: QuantizedWeight, columns: range, dtype: torch.dtype
) -> "QuantizedWeight | torch.Tensor":
    """Some columns of an MLP's `alternating` gate and up; numbers, not alternating, where the first block is cut.

    The last block may hold more columns than asked for: nobody looks at them.
    """
    if columns.start % BLOCK == 0:
        panels = weight.data[columns.start // BLOCK : -(-columns.stop // BLOCK)]
        return replace(weight, data=panels.contiguous(), out_features=len(panels) * PANEL)
    parts = dequantize(weight).unflatten(0, (-1, 2, BLOCK)).transpose(0, 1).flatten(1, 2)  # [2, size, in]
    return parts[:, columns.start : columns.stop].flatten(0, 1).to(dtype)


def _whole(edges: Sequence[int], size: int, last: int) -> bool:
    """Whether no edge cuts a unit of this size; the end of everything cuts none."""
    return all(edge % size == 0 or edge == last for edge in edges)


class SlicedLinear:
    """Some outputs of a product: panels are whole, slices of a vocabulary are not."""

    def __init__(self, product: Linear, outputs: slice) -> None:
        self._product, self._outputs = product, outputs
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x)[:, self._outputs]

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self._product.to_float32(x)[:, self._outputs]

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        total += self(x)


class QuantizedLinear(PlainLinear):
    """Dequantises the whole matrix for every product, as a GPU can."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        self._quantized, self._bias = weight, bias
        self.nbytes = weight.data.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, dequantize(self._quantized).to(x.dtype), self._bias)

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self._bias is None else self._bias.float()
        return F.linear(x.float(), dequantize(self._quantized), bias)


class AlternatingGated:
    """Like GatedLinear, for a product whose outputs are 16 of gate and 16 of up in turn."""

    def __init__(self, product: Linear, activation: Activation, size: int) -> None:
        self._product, self._activation, self._size = product, activation, size
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._product(x).unflatten(-1, (-1, 2, BLOCK)).unbind(-2)
        return (self._activation(gate) * up).flatten(1)[:, : self._size]


def alternating(gate_up: torch.Tensor) -> torch.Tensor:
    """Rows of gate and up [2 * size, ...] in turn, 16 of each, zeros where size is no multiple of 16."""
    gate, up = (padded(part.contiguous(), BLOCK).unflatten(0, (-1, BLOCK)) for part in gate_up.chunk(2))
    return torch.stack((gate, up), dim=1).flatten(0, 2)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """A new tensor of the rows of several, one after another."""
    lengths = [len(part) for part in parts]
    # torch.cat of tensors that have no memory loads torch's compiler, which takes seconds.
    whole = parts[0].new_empty((sum(lengths), *parts[0].shape[1:]))
    for part, place in zip(parts, whole.split(lengths), strict=True):
        place.copy_(part)
    return whole


def padded(rows: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros behind, up to a multiple."""
    missing = -len(rows) % multiple
    return torch.cat((rows, rows.new_zeros((missing, *rows.shape[1:])))) if missing else rows


def _int8(parts: torch.Tensor) -> list[torch.Tensor]:
    """The fields [blocks, groups, bytes] of weights [rows, groups, group]."""
    scales = (parts.abs().amax(-1) / 127).half()
    codes = (parts / _safe(scales)[..., None]).round().clamp(-127, 127).to(torch.int8)
    by_block = codes.unflatten(0, (-1, BLOCK)).permute(0, 2, 3, 1)  # [blocks, groups, group, 16]
    return [by_block.flatten(2).contiguous().view(torch.uint8), _field(scales)]


def _int4(parts: torch.Tensor) -> list[torch.Tensor]:
    low, high = parts.amin(-1), parts.amax(-1)
    best = torch.full_like(low, float("inf"))
    scales, minima = torch.zeros_like(low).half(), torch.zeros_like(low).half()
    for shrinking in _SHRINKINGS:
        margin = (high - low) * (1 - shrinking) / 2
        minimum, scale = (low + margin).half(), ((high - low) * shrinking / 15).half()
        error = (_int4_codes(parts, scale, minimum) * scale[..., None] + minimum[..., None] - parts).square().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales, minima = torch.where(better, scale, scales), torch.where(better, minimum, minima)
    codes = _int4_codes(parts, scales, minima).to(torch.int16)
    # [blocks, groups, group / 8, 4 pairs, 2 of a pair, 16 outputs] becomes words [.., group / 8, 16, 2] of 4 nibbles
    nibbles = codes.unflatten(0, (-1, BLOCK)).permute(0, 2, 3, 1).unflatten(2, (-1, 4, 2))
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int16).view(4, 1, 1)
    words = torch.bitwise_left_shift(nibbles, shifts).sum(3, dtype=torch.int64).to(torch.int16)
    return [words.transpose(-1, -2).flatten(2).contiguous().view(torch.uint8), _field(scales), _field(minima)]


def _int4_codes(parts: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
    return ((parts - minima[..., None]) / _safe(scales)[..., None]).round().clamp(0, 15)


def _safe(scales: torch.Tensor) -> torch.Tensor:
    """Scales in float32 to divide by; a group of equal weights has scale 0 and any code."""
    scales = scales.float()
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def _field(values: torch.Tensor) -> torch.Tensor:
    """Half-precision numbers [rows, groups] as bytes [blocks, groups, 32]."""
    return values.unflatten(0, (-1, BLOCK)).transpose(1, 2).contiguous().view(torch.uint8)


def _halves(field: torch.Tensor) -> torch.Tensor:
    """Float32 [blocks, groups, 1, 16] from bytes [blocks, groups, 32]."""
    return field.contiguous().view(torch.float16).float().unsqueeze(2)
