"""Quantised weights: what they lose, their layout, their products, and their files."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mpi_spp.errors import UserError
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.choice import backends
from mpi_spp.kernels.linear import Activation
from mpi_spp.kernels.quantized import BITS, SlicedLinear, alternating, dequantize, quantize
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.model.loading.quantized import QuantizedStore

CPU, KERNELS = torch.device("cpu"), cache_directory() / "kernels"
CASES = [(dtype, name) for dtype in (torch.float32, torch.bfloat16) for name in backends(dtype, CPU, KERNELS)]
SHAPES = [(100, 72, 32), (50, 45, 64), (1, 16, 16), (96, 300, 128)]  # outputs, inputs, group


@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_weight_is_off_by_half_a_step_at_most(shape: tuple[int, int, int], bits: int) -> None:
    """4 bits may clip: never by more than a tenth of the group's range."""
    out_features, in_features, group = shape
    torch.manual_seed(1)
    weight = torch.randn(out_features, in_features) * torch.rand(out_features, 1)
    restored = dequantize(quantize(weight, bits, group))
    assert restored.shape == weight.shape
    parts = F.pad(weight, (0, -in_features % group)).unflatten(1, (-1, group))
    span = 2 * parts.abs().amax(-1) if bits == 8 else parts.amax(-1) - parts.amin(-1)
    limit = span / (2 * 127) / 2 if bits == 8 else span / 10
    error = F.pad((restored - weight).abs(), (0, -in_features % group)).unflatten(1, (-1, group))
    assert (error <= 1.01 * limit[..., None] + 1e-6).all()


def test_what_has_16_levels_is_kept() -> None:
    """Weights that were quantised in the same way before lose nothing but the rounding of scales to half precision."""
    torch.manual_seed(1)
    weight = torch.randint(0, 16, (64, 96)) * 0.125 - 1
    weight[:, ::32], weight[:, 1::32] = -1.0, 0.875  # each group spans all levels
    assert torch.equal(dequantize(quantize(weight, 4, 32)), weight)


@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_equal_weights_stay(value: float, bits: int) -> None:
    restored = dequantize(quantize(torch.full((3, 40), value), bits, 32))
    assert (restored - value).abs().max() <= abs(value) * 2**-10


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_product(shape: tuple[int, int, int], bits: int, dtype: torch.dtype, name: str, has_bias: bool) -> None:
    """As the dequantised matrix gives it; many rows may round the matrix to the dtype first."""
    out_features, in_features, group = shape
    torch.manual_seed(1)
    weight = quantize(torch.randn(out_features, in_features), bits, group)
    bias = torch.randn(out_features).to(dtype) if has_bias else None
    linear = backends(dtype, CPU, KERNELS)[name].linear(weight, bias)
    exact = 2e-4 if is_native(name) else 1e-5  # inputs become integers of 16 bits; the largest of many errors
    precision = in_features**0.5 * (exact if dtype == torch.float32 else 0.02)
    for rows in (1, 5, 12, 13, 130):
        x = torch.randn(rows, in_features).to(dtype)
        expected = F.linear(x.double(), dequantize(weight).double(), None if bias is None else bias.double())
        total = torch.ones(rows, out_features)
        linear.add_to(total, x)
        for output in (linear(x), linear.to_float32(x), total - 1):
            assert (output.double() - expected).abs().max() <= precision, f"{rows} rows"
        assert linear.to_float32(x).dtype == torch.float32


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize("activation", [F.silu, F.gelu])
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gated(
    has_bias: bool, rows: int, activation: Activation, bits: int, dtype: torch.dtype, name: str, size: int = 75
) -> None:
    torch.manual_seed(1)
    gate_up, x = torch.randn(2 * size, 64), torch.randn(rows, 64).to(dtype)
    bias = torch.randn(2 * size).to(dtype) if has_bias else None
    weight = quantize(alternating(gate_up), bits, 32)
    output = backends(dtype, CPU, KERNELS)[name].gated(weight, bias, activation, size)(x)
    exact = dequantize(quantize(gate_up, bits, 32)).double()  # rows do not touch one another
    gate, up = F.linear(x.double(), exact, None if bias is None else bias.double()).chunk(2, dim=-1)
    expected = activation(gate) * up
    assert output.shape == expected.shape and output.dtype == dtype
    precision = 1e-3 if dtype == torch.float32 else 0.1
    assert ((output.double() - expected).abs() <= precision * (1 + gate.abs() + up.abs())).all()


@pytest.mark.parametrize("outputs", [range(100), range(33), range(33, 70), range(97, 100), range(64, 64)])
def test_a_slice_of_the_outputs(outputs: range) -> None:
    """As ranks hold slices of the vocabulary, which begin and end within panels."""
    torch.manual_seed(1)
    whole, x = quantize(torch.randn(100, 64), 8, 32), torch.randn(1, 64)
    for backend in backends(torch.float32, CPU, KERNELS).values():
        first = outputs.start % 32
        part = SlicedLinear(backend.linear(whole.panels(outputs), None), slice(first, first + len(outputs)))
        expected = backend.linear(whole, None).to_float32(x)[:, outputs.start : outputs.stop]
        assert torch.allclose(part.to_float32(x), expected, atol=1e-5)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def make_store(model: Path, scheme: str = "int4", group: int = 32) -> QuantizedStore:
    return QuantizedStore(model.parent / "quantized", model, sorted(model.glob("*")), scheme, group)


def test_a_file_gives_back_what_was_made(model: Path) -> None:
    store, weight = make_store(model), torch.randn(50, 64)
    assert store.missing(["layer0", "head"]) == ["layer0", "head"]
    store.make("layer0", lambda: {"qkv": weight}.items())
    store.make("head", lambda: {"head": weight}.items())
    assert store.missing(["layer0", "head"]) == []
    assert torch.equal(dequantize(store.read("layer0")["qkv"]), dequantize(quantize(weight, 4, 32)))
    assert torch.equal(dequantize(store.read("head")["head"]), dequantize(quantize(weight, 8, 32)))  # never fewer bits


def test_other_weights_or_another_scheme_are_made_anew(model: Path) -> None:
    make_store(model).make("layer0", lambda: {"qkv": torch.ones(32, 32)}.items())
    assert make_store(model).missing(["layer0"]) == []
    assert make_store(model, "int8").missing(["layer0"]) == ["layer0"]
    assert make_store(model, group=64).missing(["layer0"]) == ["layer0"]
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert make_store(model).missing(["layer0"]) == ["layer0"]


def test_a_place_that_cannot_be_written_is_named(model: Path) -> None:
    (model.parent / "quantized").write_text("a file, no directory")
    with pytest.raises(UserError, match=r"quantized.*cannot be written.*MPI_SPP_CACHE"):
        make_store(model).make("layer0", lambda: {"qkv": torch.ones(32, 32)}.items())


def test_a_truncated_file_is_missing(model: Path) -> None:
    store = make_store(model)
    store.make("layer0", lambda: {"qkv": torch.ones(32, 64)}.items())
    path = next(model.parent.rglob("layer0.safetensors"))
    path.write_bytes(path.read_bytes()[:-10])
    assert store.missing(["layer0"]) == ["layer0"]
