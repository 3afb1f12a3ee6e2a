"""The back end of linear layers: every one computes the same, and the measured choice is remembered."""

import json
from pathlib import Path

import pytest
import torch

from mpi_spp.kernels import choice
from mpi_spp.kernels.linear import BACKENDS, backends_for

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 130])
@pytest.mark.parametrize("has_bias", [False, True])
def test_every_backend_computes_the_product(dtype: torch.dtype, rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 72), (131, 72)))
    bias = torch.randn(131, generator=generator).to(dtype) if has_bias else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    for name in backends_for(dtype, CPU):
        y = BACKENDS[name](weight, bias)(x)
        assert y.dtype == dtype
        tolerance = 4 * torch.finfo(dtype).eps * exact.abs().max().item()
        assert (y.double() - exact).abs().max().item() < tolerance, name


def test_a_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, measured = tmp_path / "new" / "kernels.json", []
    times = {"plain": [2.0, 1.0], "packed": [1.0, 1.1]}
    monkeypatch.setattr(choice, "_times", lambda name, shape, dtype: measured.append(name) or times[name])
    for _ in range(2):
        assert choice.fastest_linear((200, 72), torch.float32, CPU, memory) == "packed"  # loses 10 %, the other 100 %
    assert measured == backends_for(torch.float32, CPU)
    assert list(json.loads(memory.read_text()).values()) == ["packed"]


@pytest.mark.parametrize("content", ["", "3", '{"x": "gone"}'])
def test_a_broken_memory_costs_a_measurement_only(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "kernels.json"
    memory.write_text(content)
    assert choice.fastest_linear((32, 16), torch.bfloat16, CPU, memory) in BACKENDS


def test_where_there_is_one_backend_nothing_is_measured(tmp_path: Path) -> None:
    assert choice.fastest_linear((32, 16), torch.float16, CPU, tmp_path / "kernels.json") == "plain"
    assert not (tmp_path / "kernels.json").exists()
