"""Products of the native variants with quantised weights, exact and by 8-bit activations: alone, beside others."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F

from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.quantized import QuantizedWeight, dequantize, quantize
from mpi_spp.model.loading.hub import cache_directory

pytestmark = pytest.mark.skipif(not library.runnable(), reason="needs a CPU with AVX2, or 64-bit ARM")

MOST_EXACT_ROWS = 48  # with AMX: of more, codes become bfloat16
WAYS = [(8, "exact"), (4, "exact"), (4, "int8")]


def made(name: str, activations: str = "exact") -> Native:
    return Native(library.load(name, cache_directory() / "kernels"), activations)


@functools.cache
def random_weight(in_features: int, bits: int, group: int) -> QuantizedWeight:
    return quantize(torch.randn(70, in_features, generator=torch.Generator().manual_seed(1)), bits, group)


@pytest.fixture(params=library.runnable())
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("group", [16, 32, 48, 1024])
@pytest.mark.parametrize("bits, activations", WAYS)
def test_a_row_is_the_same_alone(variant: str, bits: int, activations: str, group: int) -> None:
    """By AMX many rows are multiplied otherwise: there a row is the same beside as many."""
    torch.manual_seed(1)
    linear = made(variant, activations).linear(random_weight(300, bits, group), None)
    for rows in (2, 5, 12, 13, 30, 48, 301):
        x = torch.randn(rows, 300).bfloat16()
        together = linear.to_float32(x)
        least = MOST_EXACT_ROWS + 1 if variant == "amx" and activations == "exact" and rows > MOST_EXACT_ROWS else 1
        for first in {0, rows // 2, rows - least} & set(range(rows - least + 1)):
            part = slice(first, first + least)
            assert torch.equal(linear.to_float32(x[part]), together[part]), rows


def by_8_bits(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    """The product in float64 of inputs that are codes of 8 bits, with a scale for each 32 of a group or its rest."""
    parts = F.pad(x.float(), (0, -x.shape[1] % weight.group)).unflatten(1, (-1, weight.group))
    blocks = F.pad(parts, (0, -weight.group % 32)).unflatten(2, (-1, 32))
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    codes = (blocks / torch.where(scales == 0, 1.0, scales)).round().clamp(-127, 127)
    inputs = (codes.double() * scales.double()).flatten(2)[..., : weight.group].flatten(1)
    return F.linear(inputs[:, : weight.in_features], dequantize(weight).double())


@pytest.mark.parametrize("in_features, group", [(16, 16), (320, 32), (45, 64), (300, 48), (1100, 1024)])
def test_8_bits_are_rounded_as_they_should_be_and_nothing_else(variant: str, in_features: int, group: int) -> None:
    torch.manual_seed(1)
    weight = random_weight(in_features, 4, group)
    scales = torch.rand(in_features) * 10  # as a model's: some inputs are larger than others
    for rows in (1, 7, 20):
        x = (torch.randn(rows, in_features) * scales).bfloat16()
        x[0, :16] = 0  # a block without a scale
        expected = by_8_bits(x, weight)
        output = made(variant, "int8").linear(weight, None).to_float32(x).double()
        assert (output - expected).abs().max() <= 2e-6 * expected.abs().max() * in_features**0.5


@pytest.mark.parametrize("bits, activations", WAYS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_codes_do_not_overflow(variant: str, sign: int, bits: int, activations: str) -> None:
    """All weights and all inputs at the end of their range, in the largest group that goes by codes."""
    weight = quantize(torch.ones(32, 512), bits, 512)
    data = weight.data.clone()
    data[..., : 512 * 16 * bits // 8] = 255 if bits == 4 else 127  # codes of 15 or of 127
    data[..., 512 * 16 * bits // 8 :] = torch.tensor([0, 0x3C], dtype=torch.uint8).repeat(16 * (1 if bits == 8 else 2))
    weight = dataclasses.replace(weight, data=data)
    assert dequantize(weight).unique().tolist() == [127.0 if bits == 8 else 16.0]
    x = torch.full((3, 512), 3.0 * sign).bfloat16()
    output = made(variant, activations).linear(weight, None).to_float32(x)
    assert torch.allclose(output, F.linear(x.float(), dequantize(weight)), rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows(variant: str, value: float) -> None:
    x = torch.ones(2, 64).bfloat16()
    x[1, 40] = value
    output = made(variant, "int8").linear(random_weight(64, 4, 32), None).to_float32(x)
    assert output[0].isfinite().all() and not output[1].isfinite().any()


@pytest.mark.parametrize("rows", [1, 3, 13, 33, 48, 130])
def test_integers_are_the_same_by_all_instructions(rows: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(rows, 300).bfloat16()
    for (bits, activations), group in ((way, group) for way in WAYS for group in (16, 32, 48, 64, 128)):
        weight = random_weight(300, bits, group)
        names = [
            name for name in library.runnable() if name != "amx" or activations == "int8" or rows <= MOST_EXACT_ROWS
        ]
        outputs = [made(name, activations).linear(weight, None).to_float32(x) for name in names]
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])
