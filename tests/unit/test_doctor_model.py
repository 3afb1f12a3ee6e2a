"""Findings about a model on several hosts, and whether it fits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from doctor_jobs import GIB, eth, found, job_of, rank_on, the

from mpi_spp.instruments.doctor.facts import Gpu, ModelFiles, RankFacts, Wanted
from mpi_spp.instruments.doctor.finding import Level
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.rope import Rope

# The model.

FILES = {"config.json": "a", "model.safetensors": "b"}


def holding(host: str, **facts: Any) -> RankFacts:
    return rank_on(host, interfaces=(eth(int(host[-1])),), model=ModelFiles(**({"directory": "/m"} | facts)))


def test_a_model_is_missing_on_one_host() -> None:
    missing = holding("node2", directory=None, problem="--model: m is neither a directory nor anything else")
    finding = the(job_of(holding("node1", files=FILES), missing), "model", "--model: m is neither", "copy the model")
    assert (finding.level, finding.hosts, finding.ranks) == (Level.FAILURE, ("node2",), (1,))


@pytest.mark.parametrize(
    "name, files, says, level",
    [
        ("model.safetensors", FILES | {"model.safetensors": "x"}, "different on node3", Level.FAILURE),
        ("model.safetensors", {"config.json": "a"}, "missing on node3", Level.FAILURE),
        ("config.json", FILES | {"config.json": "x"}, "different on node3", Level.WARNING),
        ("more.json", FILES | {"more.json": "x"}, "only on node3", Level.WARNING),
    ],
)
def test_a_model_differs(name: str, files: dict[str, str], says: str, level: Level) -> None:
    job = job_of(holding("node1", files=FILES), holding("node2", files=FILES), holding("node3", files=files))
    finding = the(job, "model-files", f"{says}: {name}")
    assert (finding.level, finding.ranks) == (level, (2,))
    assert not found(job, "model")


def test_an_empty_directory_is_one_finding() -> None:
    files = {f"model-{number}.safetensors": "x" for number in range(5)}
    job = job_of(*[holding("node1", files=files)] * 2, holding("node2"))
    assert the(job, "model-files", "missing on node2: model-0.safetensors, ", " and 2 more").level is Level.FAILURE


def test_the_same_model_everywhere() -> None:
    job = job_of(*(holding(f"node{n}", files=FILES) for n in (1, 2)))
    assert the(job, "model", "/m: 2 files, 1 of them weights, the same on all hosts").level is Level.OK


def test_a_model_that_cannot_be_used() -> None:
    job = job_of(holding("node1", files=FILES), model_problem="/m/config.json: is not JSON")
    assert the(job, "model", "is not JSON").level is Level.FAILURE


# Whether it fits.


@pytest.fixture
def wanted() -> Wanted:
    layers = 8
    shape = ModelConfig(
        "llama", layers, 256, 1024, 8, 4, 32, 3000, 1 << 20, 1e-5, "silu", True, False, False, False, False,
        (None,) * layers, Rope(torch.ones(16), 1.0, None), torch.float32,
    )  # fmt: skip
    return Wanted("m", shape, torch.float32, "plain", 1024, 128)


def test_a_model_that_fits(wanted: Wanted) -> None:
    job = job_of(rank_on(), rank_on(), wanted=wanted)
    assert the(job, "memory", "1024 + 128 tokens", "8 GiB are available").level is Level.OK


def test_a_model_that_does_not_fit_on_one_host(wanted: Wanted) -> None:
    small = rank_on("node2", interfaces=(eth(2),), memory_available=300 << 20)
    job = job_of(rank_on(interfaces=(eth(1),)), small, wanted=wanted)
    (finding,) = [finding for finding in found(job, "memory") if finding.level is Level.FAILURE]
    assert finding.hosts == ("node2",) and "300 MiB are available" in finding.what and finding.do


def test_more_ranks_than_layers_and_longer_than_the_model(wanted: Wanted) -> None:
    assert the(job_of(*[rank_on(cores=(0,))] * 9, wanted=wanted), "memory", "9 stages").level is Level.FAILURE
    long = replace(wanted, prompt_tokens=1 << 20)
    assert the(job_of(rank_on(), wanted=long), "memory", "--prompt-tokens").level is Level.FAILURE


def test_a_cache_in_shared_memory(wanted: Wanted) -> None:
    """8 layers of 4 heads of 32 numbers, twice, in float32, for 1,152 positions: 9 MiB beside two segments of 16.8."""
    assert the(job_of(*[rank_on(shm_free=40 << 20)] * 2, wanted=wanted), "shm-cache", "needs 9 MiB").do
    assert not found(job_of(*[rank_on(shm_free=43 << 20)] * 2, wanted=wanted), "shm-cache")


def test_a_model_that_does_not_fit_a_gpu(wanted: Wanted) -> None:
    small, large = Gpu("A", GIB, 10 << 20), Gpu("B", GIB, GIB)
    job = job_of(rank_on(gpus=(small, large)), rank_on(gpus=(small, large)), wanted=wanted)
    first, second = found(job, "gpu-memory")
    assert (first.level, first.ranks, second.level) == (Level.FAILURE, (0,), Level.OK)
    assert not found(job, "memory")
