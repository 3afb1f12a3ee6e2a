"""Findings, from facts of machines that are not here: many hosts, WSL, GPUs, two MPIs, little memory."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from mpi_spp.doctor.examine import examine
from mpi_spp.doctor.facts import ClockOffset, Gpu, JobFacts, Link, ModelFiles, RankFacts, Wanted
from mpi_spp.doctor.finding import Finding, Level, exit_status, failure_of
from mpi_spp.doctor.interfaces import Interface, Route
from mpi_spp.doctor.job import rounds_of_pairs
from mpi_spp.doctor.shared_memory import is_fatal
from mpi_spp.doctor.software import NOT_THERE
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.rope import Rope
from mpi_spp.report.findings import print_findings, ranges

OPEN_MPI, MPICH = "Open MPI v5.0.11", "MPICH Version: 5.0.2"
VERSIONS = {"Python": "3.11.2", "MPI": OPEN_MPI, "torch": "2.13.0+cpu", "mpi-spp": "0.1 (source abc)"}
GIB = 1 << 30


def rank_on(host: str = "node1", **facts: Any) -> RankFacts:
    """A rank to which nothing is wrong; `mpi`: another library."""
    versions = VERSIONS | {"MPI": facts.pop("mpi", OPEN_MPI)}
    usual = {"versions": versions, "cores": (0, 1, 2, 3), "host_cores": 4, "shm_free": GIB, "memory_available": 8 * GIB}
    return RankFacts(host=host, **(usual | facts))


def job_of(*ranks: RankFacts, **facts: Any) -> JobFacts:
    """One job, whose ranks are numbered here."""
    numbered = tuple(replace(rank, rank=number) for number, rank in enumerate(ranks))
    return JobFacts(ranks=numbered, **({"launched": len(ranks)} | facts))


def found(job: JobFacts, id: str) -> list[Finding]:
    return [finding for finding in examine(job) if finding.id == id]


def the(job: JobFacts, id: str, *about: str) -> Finding:
    """The only finding of this id, whose text speaks of all that."""
    (finding,) = found(job, id)
    assert all(part in f"{finding.what} {finding.do}" for part in about), finding
    assert (finding.level in (Level.WARNING, Level.FAILURE)) <= bool(finding.do), f"no advice: {finding}"
    return finding


def is_well(job: JobFacts) -> bool:
    return all(finding.level is Level.OK for finding in examine(job))


def eth(number: int, name: str = "eth0", mbit: int | None = 1000, network: str = "10.0.0") -> Interface:
    return Interface(name, f"{network}.{number}/24", mbit)


def test_a_healthy_job_is_well() -> None:
    ranks = [rank_on(f"node{n}", interfaces=(eth(n),)) for n in (1, 2, 3)]
    job = job_of(*ranks, links=(Link(0, 1, 2e-5, 1.1e8),), clocks=(ClockOffset(1, 1e-3, 1e-4), ClockOffset(2, 0, 1e-4)))
    assert is_well(job) and exit_status(examine(job)) == 0
    assert the(job, "launcher", "all 3 processes", "on 3 hosts").hosts == ("node1", "node2", "node3")
    assert is_well(job_of(rank_on(), launcher="/bin/mpirun (openmpi 5)"))


# The launcher.


def test_two_mpis_mixed() -> None:
    says = "the launcher started 3 ranks, but mpi4py loaded MPICH, which sees only one; start with another"
    job = job_of(rank_on(mpi=MPICH), launched=3, mpi_problem=says)
    finding = the(job, "launcher", "sees only one")
    assert (finding.level, finding.do) == (Level.FAILURE, "start with another")
    assert "only rank 0's host" in the(job, "hosts").what
    assert exit_status(examine(job)) == 1


def test_no_launcher() -> None:
    assert the(job_of(rank_on(), mpi_problem="mpirun: none found; install one"), "launcher").level is Level.FAILURE


# Versions.


@pytest.mark.parametrize("name, level", [("MPI", Level.FAILURE), ("mpi-spp", Level.FAILURE), ("torch", Level.WARNING)])
def test_versions_differ(name: str, level: Level) -> None:
    other = rank_on("node2", interfaces=(eth(2),), versions=VERSIONS | {name: "another one"})
    job = job_of(rank_on(interfaces=(eth(1),)), other)
    assert the(job, "versions", name, "another one on node2").level is level


def test_a_package_is_missing() -> None:
    without = VERSIONS | {"transformers": NOT_THERE}
    job = job_of(rank_on(versions=VERSIONS | {"transformers": "5"}), rank_on(versions=without))
    finding = the(job, "versions", "transformers is not installed")
    assert (finding.level, finding.ranks) == (Level.FAILURE, (1,))


def test_torch_is_broken() -> None:
    job = job_of(rank_on(), rank_on(torch_problem="libcudart.so.12: cannot open"))
    assert the(job, "torch", "libcudart").ranks == (1,)


# Cores.


def test_threads_are_oversubscribed() -> None:
    ranks = [rank_on(cores=(0, 1), host_cores=2, threads=2)] * 3
    finding = the(job_of(*ranks), "oversubscribed", "3 ranks with 6 threads together share 2 cores", "at most 1 thread")
    assert (finding.level, finding.ranks, finding.hosts) == (Level.WARNING, (0, 1, 2), ("node1",))


def test_only_the_crowded_host_is_named() -> None:
    roomy = rank_on("node2", cores=tuple(range(8)), host_cores=8, threads=8, interfaces=(eth(2),))
    crowded = rank_on(cores=(0, 1), host_cores=2, threads=2, interfaces=(eth(1),))
    assert the(job_of(crowded, crowded, roomy), "oversubscribed").ranks == (0, 1)


def test_several_ranks_are_bound_to_one_core() -> None:
    ranks = [rank_on(cores=(0,), host_cores=8)] * 3
    finding = the(job_of(*ranks), "binding", "share 1 core, though the host has 8", "core 0")
    assert finding.level is Level.WARNING
    assert not found(job_of(*ranks), "oversubscribed")


def test_ranks_side_by_side_are_well() -> None:
    ranks = [rank_on(cores=(first, first + 1), threads=2) for first in (0, 2)]
    assert is_well(job_of(*ranks))


def test_idle_cores() -> None:
    assert the(job_of(rank_on(cores=(0,)), rank_on(cores=(1,))), "idle-cores", "2 of 4 cores").level is Level.NOTE
    assert not found(job_of(rank_on(cores=(0,))), "idle-cores")  # no job: nothing is decided


def test_a_rank_over_two_numa_nodes() -> None:
    spread = rank_on(numa_nodes=((0, 1), (2, 3)))
    assert the(job_of(spread), "numa", "2 NUMA nodes").level is Level.NOTE
    ranks = [rank_on(cores=cores, numa_nodes=((0, 1), (2, 3))) for cores in ((0, 1), (2, 3))]
    assert not found(job_of(*ranks), "numa")


# Memory between processes.


@pytest.mark.parametrize("mpi, level", [(OPEN_MPI, Level.WARNING), (MPICH, Level.FAILURE)])
def test_a_small_dev_shm(mpi: str, level: Level) -> None:
    ranks = [rank_on(mpi=mpi, shm_free=4 << 20)] * 4
    assert the(job_of(*ranks), "shm", "4 MiB free in /dev/shm", "remount").level is level


def test_what_was_free_before_mpi_took_its_part() -> None:
    """The rank that looks last sees what the first has taken already."""
    ranks = [rank_on(shm_free=free << 20) for free in (64, 47, 30)]
    assert the(job_of(*ranks), "shm", "64 MiB free").level is Level.OK


def test_a_dev_shm_in_which_mpi_would_die() -> None:
    """What is free counts with the segments that are there already; what there is at all does not."""
    small = rank_on(mpi=MPICH, shm_free=4 << 20, shm_size=4 << 20)
    assert is_fatal(small, 4) and not is_fatal(small, 3)
    assert not is_fatal(replace(small, shm_size=GIB), 4)
    assert not is_fatal(rank_on(shm_size=4 << 20), 4)  # Open MPI goes on without


def test_no_dev_shm_and_an_unknown_library() -> None:
    assert the(job_of(rank_on(shm_free=None)), "shm").level is Level.WARNING
    assert the(job_of(rank_on(mpi="Someone's MPI 1", shm_free=1)), "shm").level is Level.OK


@pytest.mark.parametrize(
    "mpi, variables, level",
    [
        (MPICH, {}, Level.FAILURE),
        (MPICH, {"MPIR_CVAR_CH4_CMA_ENABLE": "0"}, Level.NOTE),
        ("Open MPI v4.1.4", {}, Level.WARNING),
        ("Open MPI v4.1.4", {"OMPI_MCA_btl_vader_single_copy_mechanism": "none"}, Level.NOTE),
        (OPEN_MPI, {"OMPI_MCA_smsc": "^cma"}, Level.NOTE),
        ("Intel(R) MPI Library 2021.18", {}, Level.NOTE),
    ],
)
def test_cma_is_refused(mpi: str, variables: dict[str, str], level: Level) -> None:
    assert the(job_of(rank_on(mpi=mpi, cma_refused=True, variables=variables)), "cma").level is level


# The network.


def two_hosts(first: Sequence[Interface], second: Sequence[Interface], **facts: Any) -> JobFacts:
    ranks = [rank_on(f"node{n}", interfaces=tuple(own)) for n, own in enumerate((first, second), start=1)]
    return job_of(*ranks, **facts)


def test_the_interface_between_two_hosts() -> None:
    job = two_hosts([eth(1), eth(1, "eth1", network="10.9.9")], [eth(2)])
    finding = the(job, "interface", "eth0 (1000 Mbit/s)")  # the same of both
    assert (finding.level, finding.hosts, finding.ranks) == (Level.OK, ("node1", "node2"), (0, 1))
    assert "eth1" not in finding.what


def test_several_interfaces_and_none_chosen() -> None:
    both = [[eth(n), eth(n, "ib0", 100000, "10.1.0")] for n in (1, 2)]
    finding = found(two_hosts(*both), "interface")[0]
    assert finding.level is Level.NOTE
    assert "eth0 (1000 Mbit/s), ib0 (100000 Mbit/s)" in finding.what and "10.1.0.0/24" in finding.do
    chosen = {"OMPI_MCA_btl_tcp_if_include": "ib0"}
    ranks = [rank_on(f"node{n}", interfaces=tuple(own), variables=chosen) for n, own in enumerate(both)]
    assert all(finding.level is Level.OK for finding in found(job_of(*ranks), "interface"))


def test_a_bridge_with_the_same_address_everywhere() -> None:
    bridge = Interface("docker0", "172.17.0.1/16")
    job = two_hosts([eth(1), bridge], [eth(2), bridge])
    (warning,) = [finding for finding in found(job, "interface") if finding.level is Level.WARNING]
    assert "docker0 has the address 172.17.0.1" in warning.what and "10.0.0.0/24" in warning.do
    assert warning.hosts == ("node1", "node2")


def test_a_host_behind_a_router_or_behind_nothing() -> None:
    far = [eth(2, network="10.7.7")]
    routed = job_of(
        rank_on(interfaces=(eth(1),), routes=(Route("eth0", "0.0.0.0/0"),)),
        rank_on("node2", interfaces=tuple(far), routes=(Route("eth0", "0.0.0.0/0"),)),
    )
    assert all(finding.level is Level.OK for finding in found(routed, "interface"))
    assert all("no route" in finding.what for finding in found(two_hosts([eth(1)], far), "interface"))


def test_a_link_is_slower_than_its_interface() -> None:
    slow = the(two_hosts([eth(1)], [eth(2)], links=(Link(0, 1, 1e-4, 1e7),)), "link", "10 MB/s", "125 MB/s")
    assert (slow.level, slow.ranks) == (Level.WARNING, (0, 1))
    assert the(two_hosts([eth(1)], [eth(2)], links=(Link(0, 1, 1e-4, 1e8),)), "link").level is Level.OK


def test_a_link_inside_a_host() -> None:
    apart = [rank_on(cores=(core,), host_cores=2) for core in (0, 1)]
    assert the(job_of(*apart, links=(Link(0, 1, 1e-6, 5e9),)), "link", "1 us, 5e+03 MB/s").level is Level.OK
    assert the(job_of(*apart, links=(Link(0, 1, 3e-5, 5e8),)), "link", "slow for one host").level is Level.NOTE
    together = [rank_on(cores=(0,), host_cores=1)] * 2
    assert the(job_of(*together, links=(Link(0, 1, 3e-5, 5e8),)), "link").level is Level.OK


def test_clocks() -> None:
    apart = two_hosts([eth(1)], [eth(2)], clocks=(ClockOffset(1, -12.5, 0.001),))
    assert the(apart, "clock", "-12.5 s from that of node1").hosts == ("node2",)
    assert the(replace(apart, clocks=(ClockOffset(1, 0.002, 0.001),)), "clock", "within 2 ms").level is Level.OK
    assert the(replace(apart, clocks=(ClockOffset(1, 0.3, 0.29),)), "clock").level is Level.OK  # not known better


@pytest.mark.parametrize("count", range(1, 9))
def test_every_pair_once_and_nobody_twice_at_a_time(count: int) -> None:
    ranks = [10 * number for number in range(count)]
    rounds = rounds_of_pairs(ranks)
    pairs = [pair for one in rounds for pair in one]
    assert sorted(pairs) == [(a, b) for a in ranks for b in ranks if a < b]
    assert all(len({rank for pair in one for rank in pair}) == 2 * len(one) for one in rounds)
    assert len(rounds) <= count


# Systems.


def test_wsl_without_the_hint() -> None:
    finding = the(job_of(rank_on(is_wsl=True)), "hwloc", "WSL", "HWLOC_COMPONENTS=-gl")
    assert finding.level is Level.WARNING
    hinted = rank_on(is_wsl=True, variables={"HWLOC_COMPONENTS": "x86,-gl"})
    assert the(job_of(hinted), "hwloc").level is Level.OK
    assert the(job_of(rank_on(x_port_is_open=True)), "hwloc", "port 6006").level is Level.WARNING


def test_a_slow_clock_source() -> None:
    assert the(job_of(rank_on(clock_source="hpet")), "clock-source", "hpet").level is Level.NOTE
    assert not found(job_of(rank_on(clock_source="tsc")), "clock-source")


# GPUs.


def test_gpus() -> None:
    gpu = Gpu("Orin", 8 * GIB, 6 * GIB)
    job = job_of(*[rank_on(gpus=(gpu,), cuda_aware=False)] * 2)
    listed, shared = sorted(found(job, "gpu"), key=lambda finding: finding.level)
    assert "0: Orin, 6 GiB of 8 GiB free" in listed.what
    assert (shared.level, shared.what) == (Level.WARNING, "2 ranks share 1 GPU")
    assert the(job, "cuda-aware", "--cuda-aware yes").level is Level.NOTE
    assert the(job_of(rank_on(gpus=(gpu,), cuda_aware=True)), "cuda-aware").level is Level.OK
    assert not found(job_of(rank_on(gpus=(gpu,))), "cuda-aware")  # MPI was not asked


def test_a_gpu_that_torch_does_not_see() -> None:
    assert the(job_of(rank_on(has_gpu_driver=True)), "gpu", "torch 2.13.0+cpu sees no GPU").level is Level.WARNING


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


# Showing.


def test_findings_are_shown_worst_first() -> None:
    levels = [finding.level for finding in examine(job_of(rank_on(cma_refused=True, is_wsl=True, mpi=MPICH)))]
    assert levels[0] is Level.FAILURE and levels == sorted(levels, reverse=True)


def test_the_table() -> None:
    findings = [
        failure_of("model", "/m[1]/config.json: gone; get it", (0, 1, 3), ("a", "b")),
        Finding("cores", Level.OK, "fine", "", tuple(range(7)), tuple("abcdefg")),
        Finding("launcher", Level.OK, "all well", "", tuple(range(8)), tuple("abcdefgh")),
    ]
    shown = io.StringIO()
    print_findings([finding.as_data() for finding in findings], 8, Console(width=120, file=shown))
    for part in (
        "failure",
        "/m[1]/config.json: gone",
        "get it",
        "a, b: ranks 0-1, 3",
        "7 hosts: ranks 0-6",
        "1 failure, 0 warning, 0 note, 2 ok",
    ):
        assert part in shown.getvalue(), part
    assert "0-7" not in shown.getvalue()  # what is about everybody names nobody


def test_ranges() -> None:
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8" and ranges(()) == ""
