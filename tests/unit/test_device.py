"""Which device and dtype a rank takes, on hosts with any number of GPUs (torch's answers are set here)."""

import pytest
import torch

from mpi_spp.errors import UserError
from mpi_spp.model.device import choose_device, choose_dtype


class Host:
    """A host with so many GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus = 0
        self.current: int | None = None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.gpus)
        monkeypatch.setattr(torch.cuda, "set_device", self._set)

    def _set(self, device: int) -> None:
        self.current = device


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.mark.parametrize(
    "gpus, device, gpu_ids, chosen",
    [
        (0, "auto", (), ["cpu", "cpu", "cpu"]),
        (4, "cpu", (), ["cpu", "cpu", "cpu"]),
        (3, "auto", (), ["cuda:0", "cuda:1", "cuda:2"]),
        (3, "cuda", (), ["cuda:0", "cuda:1", "cuda:2"]),
        (2, "auto", (), ["cuda:0", "cuda:1", "cuda:0"]),  # more ranks than GPUs: in turn
        (8, "auto", (5, 6, 7), ["cuda:5", "cuda:6", "cuda:7"]),
        (8, "cuda", (7, 2, 0, 1), ["cuda:7", "cuda:2", "cuda:0"]),
        (2, "cuda", (1, 1, 1), ["cuda:1", "cuda:1", "cuda:1"]),
    ],
)
def test_three_ranks_of_a_host(host: Host, gpus: int, device: str, gpu_ids: tuple[int, ...], chosen: list[str]) -> None:
    host.gpus = gpus
    assert [str(choose_device(device, gpu_ids, rank, 3)) for rank in range(3)] == chosen


def test_the_chosen_gpu_becomes_the_current_one(host: Host) -> None:
    host.gpus = 8
    choose_device("auto", (5, 6, 7), 1, 3)
    assert host.current == 6


@pytest.mark.parametrize(
    "gpus, device, gpu_ids, named",
    [
        (0, "cuda", (), "--device cuda: torch finds no GPU"),
        (0, "auto", (0,), "--gpu-ids: GPU 0 is not there; this host has 0"),
        (2, "auto", (0, 1, 2), "--gpu-ids: GPU 2 is not there; this host has 2"),
        (4, "auto", (0, 1), "--gpu-ids: 2 ids for 3 ranks"),
    ],
)
def test_a_gpu_that_is_not_there(host: Host, gpus: int, device: str, gpu_ids: tuple[int, ...], named: str) -> None:
    host.gpus = gpus
    for rank in range(3):
        with pytest.raises(UserError, match=named):
            choose_device(device, gpu_ids, rank, 3)


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    "option, of_checkpoint, device, chosen",
    [
        ("auto", torch.float32, CPU, torch.float32),
        ("auto", torch.bfloat16, CPU, torch.bfloat16),
        ("auto", torch.float16, CPU, torch.bfloat16),  # float16 is slow on CPUs
        ("auto", torch.float16, GPU, torch.float16),
        ("auto", torch.bfloat16, GPU, torch.bfloat16),
        ("auto", torch.float64, CPU, torch.float32),
        ("float16", torch.float32, CPU, torch.float16),
        ("float32", torch.bfloat16, GPU, torch.float32),
        ("bfloat16", torch.float32, CPU, torch.bfloat16),
    ],
)
def test_dtype(option: str, of_checkpoint: torch.dtype, device: torch.device, chosen: torch.dtype) -> None:
    assert choose_dtype(option, of_checkpoint, device) == chosen
