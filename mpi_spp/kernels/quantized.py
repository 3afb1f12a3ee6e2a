"""Weight-only quantisation: few rows read int8 or int4 weights, many rows the ones in the model's dtype."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mpi_spp.kernels.linear import Linear

FEW_ROWS = 8  # quantised products gain while memory is the limit; beyond, unpacking costs more than it saves
_INT4_ROWS = 16  # torch packs int4 weights in blocks of so many output features
GROUP_SIZES = (32, 64, 128, 256)  # what torch's int4 product knows


@dataclass(frozen=True)
class Quantization:
    """What `--quantize` and `--quantize-group-size` ask for."""

    bits: int  # 8 or 4
    group_size: int  # input features that share a scale and a zero point; int8 has one scale for a whole row


class Int8Linear:
    """Weights in int8, symmetric, one scale an output feature. Activations stay as they are."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
        self._weight = (weight.float() / scale[:, None]).round_().to(torch.int8)
        self._scale, self._bias = scale.to(weight.dtype), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.aten._weight_int8pack_mm(x, self._weight, self._scale)
        return y if self._bias is None else y.add_(self._bias)


class Int4Linear:
    """Weights in int4, a scale and a zero point for each group of input features of an output feature."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group_size: int) -> None:
        self._rows, self._bias, self._group_size = len(weight), bias, group_size
        padded = F.pad(weight.float(), (0, 0, 0, -len(weight) % _INT4_ROWS))
        codes, self._scales_and_zeros = quantize_groups(padded, group_size)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        y = product(x, self._packed, self._group_size, self._scales_and_zeros)[:, : self._rows]
        return y if self._bias is None else y + self._bias


class ByRows:
    """Few rows take one product, many another."""

    def __init__(self, few: Linear, many: Linear) -> None:
        self._few, self._many = few, many

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._few(x) if len(x) <= FEW_ROWS else self._many(x)


def quantize_groups(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round float32 weights [rows, columns] to 16 levels between the extremes of each group.

    Returns codes int32 [rows, columns] from 0 to 15, and bfloat16 [columns / group_size, rows, 2]: the scale, and the
    value of code 8 (so that weight = (code - 8) * scale + zero). Codes are chosen for the scale and zero as rounded to
    bfloat16.
    """
    groups = weight.view(len(weight), -1, group_size)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-9).bfloat16()
    zero = (low + 8 * scale.float()).bfloat16()
    codes = ((groups - zero.float()) / scale.float() + 8).round_().clamp_(0, 15)
    scales_and_zeros = torch.cat((scale, zero), dim=-1).transpose(0, 1).contiguous()
    return codes.to(torch.int32).view(weight.shape), scales_and_zeros


def quantized(weight: torch.Tensor, bias: torch.Tensor | None, quantization: Quantization) -> Linear:
    """The quantised product of a weight [out_features, in_features]."""
    if quantization.bits == 8:
        return Int8Linear(weight, bias)
    return Int4Linear(weight, bias, quantization.group_size)
