"""Every back end gives the product."""

import pytest
import torch

from mpi_spp.kernels.linear import BACKENDS, backends_for

CPU = torch.device("cpu")
CASES = [(dtype, name) for dtype in (torch.float32, torch.bfloat16, torch.float16) for name in backends_for(dtype, CPU)]
PRECISION = {torch.float32: 2.0**-18, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@pytest.mark.parametrize("dtype, name", CASES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 128])
@pytest.mark.parametrize("out_features, in_features", [(100, 72), (131, 33), (1, 16), (576, 1536)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_product(out_features: int, in_features: int, rows: int, has_bias: bool, dtype: torch.dtype, name: str) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(rows, in_features).to(dtype), torch.randn(out_features, in_features).to(dtype)
    bias = (10 * torch.randn(out_features)).to(dtype) if has_bias else None
    output = BACKENDS[name](weight, bias)(x)
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert output.dtype == dtype and output.shape == expected.shape
    scale = in_features**0.5 + (10 if has_bias else 0)
    assert ((output.double() - expected).abs() <= 4 * PRECISION[dtype] * scale).all()


def test_a_gpu_has_the_plain_one_only() -> None:
    assert backends_for(torch.bfloat16, torch.device("cuda", 0)) == ["plain"]
