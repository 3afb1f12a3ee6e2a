"""Whether MPI reads GPU memory: the sources and their order, without a GPU."""

import ctypes
from typing import Any, cast

import pytest
import torch
from mpi4py import MPI

from mpi_spp.comm.buffers import Direct, ThroughHost, choose_staging
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.world import the_world


class Comm:
    """A communicator whose info names these kinds of memory."""

    def __init__(self, kinds: str | None) -> None:
        self._kinds = kinds

    def Get_info(self) -> dict[str, str]:
        return {} if self._kinds is None else {"mpi_memory_alloc_kinds": self._kinds}


class Library:
    """A loaded program that has the query of Open MPI, or not."""

    def __init__(self, answer: int | None) -> None:
        if answer is not None:
            self.MPIX_Query_cuda_support = Query(answer)


class Query:
    """A function of C."""

    def __init__(self, answer: int) -> None:
        self._answer = answer

    def __call__(self) -> int:
        return self._answer


def ask(
    monkeypatch: pytest.MonkeyPatch,
    choice: str = "auto",
    kinds: str | None = None,
    query: int | None = None,
    environment: dict[str, str] | None = None,
) -> bool:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(query))
    return is_cuda_aware(choice, cast(Any, Comm(kinds)), environment or {})


@pytest.mark.parametrize(
    "sources, expected",
    [
        ({}, False),
        ({"choice": "yes"}, True),
        ({"choice": "no", "kinds": "mpi,system,cuda", "query": 1}, False),
        ({"choice": "yes", "query": 0}, True),
        ({"kinds": "mpi,system,cuda"}, True),
        ({"kinds": "mpi,system,cuda:device"}, True),
        ({"kinds": "mpi,system", "query": 1}, True),  # an older MPI 4 does not list CUDA
        ({"kinds": "mpi,system,rocm", "query": 0}, False),
        ({"kinds": "mpi,barracuda"}, False),
        ({"kinds": "system,cuda", "query": 0}, True),  # the first source that knows decides
        ({"query": 1}, True),
        ({"query": 0}, False),
        ({"query": 0, "environment": {"MPICH_GPU_SUPPORT_ENABLED": "1"}}, False),
        ({"environment": {"MPICH_GPU_SUPPORT_ENABLED": "1"}}, True),
        ({"environment": {"MPICH_GPU_SUPPORT_ENABLED": "0"}}, False),
        ({"environment": {"MV2_USE_CUDA": "1"}}, True),
        ({"environment": {"MV2_USE_CUDA": ""}}, False),
        ({"environment": {"I_MPI_OFFLOAD": "1"}}, True),
    ],
    ids=str,
)
def test_sources(monkeypatch: pytest.MonkeyPatch, sources: dict[str, Any], expected: bool) -> None:
    assert ask(monkeypatch, **sources) is expected


def test_the_library_at_hand_answers() -> None:
    """The real query through the real library: no wheel of an MPI is built with CUDA."""
    the_world()  # initialises MPI, if no other test has done so
    assert is_cuda_aware("auto", MPI.COMM_SELF, {}) in (False, torch.cuda.is_available())


@pytest.mark.parametrize(
    "device, aware, expected",
    [("cpu", False, Direct), ("cpu", True, Direct), ("cuda:0", True, Direct), ("cuda:0", False, ThroughHost)],
)
def test_staging(device: str, aware: bool, expected: type) -> None:
    assert isinstance(choose_staging(torch.device(device), aware), expected)
