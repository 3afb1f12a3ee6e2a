"""Every back end gives the product, in each of its forms, against float64."""

import pytest
import torch
import torch.nn.functional as F

from mpi_spp.kernels import widened
from mpi_spp.kernels.choice import backends
from mpi_spp.kernels.linear import Activation
from mpi_spp.kernels.plain import Plain
from mpi_spp.kernels.quantized import dequantize, quantize
from mpi_spp.model.loading.hub import cache_directory

CPU, KERNELS = torch.device("cpu"), cache_directory() / "kernels"
CASES = [
    (dtype, name) for dtype in (torch.float32, torch.bfloat16, torch.float16) for name in backends(dtype, CPU, KERNELS)
]
SHAPES = [(100, 72), (131, 33), (1, 16), (160, 1536)]
ROWS = [0, 1, 2, 7, 13, 128, 250]
PRECISION = {torch.float32: 2.0**-18, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


class Case:
    """A product, and what it should be in float64."""

    def __init__(self, out_features: int, in_features: int, rows: int, has_bias: bool, dtype: torch.dtype) -> None:
        torch.manual_seed(1)
        self.x = torch.randn(rows, in_features).to(dtype)
        self.weight = torch.randn(out_features, in_features).to(dtype)
        self.bias = (10 * torch.randn(out_features)).to(dtype) if has_bias else None
        self.expected = F.linear(
            self.x.double(), self.weight.double(), None if self.bias is None else self.bias.double()
        )
        self.precision = 4 * PRECISION[dtype] * (in_features**0.5 + (10 if has_bias else 0))


def backend_of(name: str, dtype: torch.dtype) -> Plain:
    return backends(dtype, CPU, KERNELS)[name]


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_product(shape: tuple[int, int], has_bias: bool, dtype: torch.dtype, name: str) -> None:
    for rows in ROWS:
        case = Case(*shape, rows, has_bias, dtype)
        linear = backend_of(name, dtype).linear(case.weight, case.bias)
        total = torch.full((rows, shape[0]), 3.0)
        linear.add_to(total, case.x)
        assert linear(case.x).dtype == dtype
        for output in (linear(case.x), linear.to_float32(case.x), total - 3):
            assert output.shape == case.expected.shape
            assert ((output.double() - case.expected).abs() <= case.precision).all(), f"{rows} rows"


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("activation", [F.silu, F.gelu])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gated(has_bias: bool, activation: Activation, dtype: torch.dtype, name: str) -> None:
    for rows in ROWS:
        case = Case(2 * 75, 32, rows, has_bias, dtype)  # no multiple of a panel's 16
        output = backend_of(name, dtype).gated(case.weight, case.bias, activation, 75)(case.x)
        gate, up = case.expected.chunk(2, dim=-1)
        expected = activation(gate) * up
        assert output.dtype == dtype and output.shape == expected.shape
        largest = case.precision * (2 + gate.abs() + up.abs())
        assert ((output.double() - expected).abs() <= largest).all(), f"{rows} rows"


@pytest.mark.parametrize("block_bytes", [1, 5 * 4 * 45, 48 * 4 * 45, 64 * 4 * 64])
def test_any_number_of_blocks(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16-bit weights, and of quantised ones, whose blocks are whole panels."""
    monkeypatch.setattr(widened, "_BLOCK_BYTES", block_bytes)
    torch.manual_seed(1)
    weight, x, backend = torch.randn(100, 45), torch.randn(7, 45), widened.Blockwise()
    half, codes = weight.bfloat16(), quantize(weight, 4, 32)
    for given, exact in ((half, half.float()), (codes, dequantize(codes)[:100, :45])):
        assert (backend.linear(given, None)(x) - x @ exact.t()).abs().max() < 1e-4


def test_a_gpu_has_the_plain_one_only() -> None:
    assert list(backends(torch.bfloat16, torch.device("cuda", 0), KERNELS)) == ["plain"]
