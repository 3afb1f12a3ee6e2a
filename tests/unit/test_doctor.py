"""Findings, from facts of machines that are not here: WSL, GPUs, two MPIs, few cores."""

import io
from dataclasses import replace

import pytest
from doctor_jobs import GIB, MPICH, OPEN_MPI, VERSIONS, eth, found, is_well, job_of, rank_on, the
from rich.console import Console

from mpi_spp.instruments.doctor.examine import examine
from mpi_spp.instruments.doctor.facts import ClockOffset, Gpu, Link
from mpi_spp.instruments.doctor.finding import Finding, Level, exit_status, failure_of
from mpi_spp.instruments.doctor.shared_memory import is_fatal
from mpi_spp.instruments.doctor.software import NOT_THERE
from mpi_spp.instruments.report.findings import print_findings, ranges


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


def test_a_quota_of_time() -> None:
    one = rank_on(cores=(0, 1), host_cores=2, cpu_quota=1.0)
    assert the(job_of(one), "cores", "1 thread on 2 of 2 cores", "a quota of 1 core's time").level is Level.OK
    assert not found(job_of(one), "cpu-quota") and not found(job_of(one), "idle-cores")
    two = the(job_of(one, one), "cpu-quota", "2 ranks with 2 threads together have a quota", "at most 1 rank")
    assert (two.level, two.ranks) == (Level.WARNING, (0, 1))
    assert the(job_of(replace(one, threads=4, cpu_quota=2.5)), "cpu-quota", "2.5 cores' time", "--threads 2;")
    assert not found(job_of(replace(one, cpu_quota=64.0)), "cpu-quota")


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
