"""The measured choice of a back end is remembered."""

import json
from pathlib import Path

import pytest
import torch

from mpi_spp.kernels import choice
from mpi_spp.kernels.plain import Packed

CPU = torch.device("cpu")


def test_a_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    times = {"Plain": [2.0, 1.0], "Packed": [1.0, 1.1]}
    monkeypatch.setattr(
        choice, "_times", lambda backend, shape, dtype: measured.append(type(backend).__name__) or times[measured[-1]]
    )
    for _ in range(2):
        assert (
            choice.fastest((200, 72), torch.float32, CPU, tmp_path / "new") == "packed"
        )  # loses 10 %, the other 100 %
    assert measured == ["Plain", "Packed"]
    assert list(json.loads((tmp_path / "new" / "choices.json").read_text()).values()) == ["packed"]


@pytest.mark.parametrize("product, chosen", [(1.2, "native"), (1.3, "packed")])
def test_a_layer_in_one_call_is_worth_slower_products(
    product: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"packed": Packed(), "native": Packed()}
    found["native"].in_one_call = True
    times = {"packed": [1.0], "native": [product]}
    monkeypatch.setattr(choice, "backends", lambda *what: found)
    monkeypatch.setattr(
        choice, "_times", lambda backend, shape, dtype: times["native" if backend.in_one_call else "packed"]
    )
    assert choice.fastest((200, 72), torch.float32, CPU, tmp_path) == chosen


@pytest.mark.parametrize("content", ["", "3", '{"x": "gone"}'])
def test_a_broken_memory_costs_a_measurement_only(tmp_path: Path, content: str) -> None:
    (tmp_path / "choices.json").write_text(content)
    assert choice.fastest((32, 16), torch.float32, CPU, tmp_path) in choice.backends(torch.float32, CPU, tmp_path)


def test_where_there_is_one_backend_nothing_is_measured(tmp_path: Path) -> None:
    assert choice.fastest((32, 16), torch.float16, CPU, tmp_path) == "plain"
    assert not (tmp_path / "choices.json").exists()
