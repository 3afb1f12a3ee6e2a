"""The lines for every MPI, who gets which core; nothing is started but `--version` of made-up launchers."""

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.interface import check_interface
from mpi_spp.launch.launcher import Launcher, Vendor, find_launcher, identify
from mpi_spp.launch.line import (
    LaunchRequest,
    check_gpu_ids,
    default_num_ranks,
    mpirun_line,
    without_gl,
    without_lone_colons,
)
from mpi_spp.launch.placement import Place, local_numbers, one_cpu_per_core, place
from mpi_spp.system import start

ROOT = Path(__file__).parents[2]
PLACEMENT = " ".join(start.words("mpi_spp.launch.placement"))
OPEN_MPI_4, OPEN_MPI_5 = Launcher(("mpirun",), "openmpi", 4), Launcher(("mpirun",), "openmpi", 5)
MPICH, INTEL = Launcher(("mpiexec",), "mpich", 5), Launcher(("mpiexec.hydra",), "intel", 2021)
TWO_NODES = (Host("node1", 2), Host("node2", 1))


def line(launcher: Launcher, **settings: Any) -> str:
    defaults: dict[str, Any] = {"command": ("prog",), "num_ranks": 3, "exports": {"HWLOC_COMPONENTS": "-gl"}}
    request = LaunchRequest(**(defaults | settings))
    argv, environment = mpirun_line(request, launcher)
    assert environment == {"HWLOC_COMPONENTS": "-gl"}
    return " ".join(argv)


def test_one_machine() -> None:
    open_mpi = "mpirun -np 3 --map-by slot:OVERSUBSCRIBE --bind-to none -x HWLOC_COMPONENTS=-gl"
    assert line(OPEN_MPI_4) == f"{open_mpi} --mca odls_base_sigkill_timeout 0 {PLACEMENT} prog"
    assert line(OPEN_MPI_5) == f"{open_mpi} --output :raw {PLACEMENT} prog"
    assert line(MPICH) == f"mpiexec -n 3 -bind-to none -genv HWLOC_COMPONENTS -gl {PLACEMENT} prog"
    assert line(INTEL) == f"mpiexec.hydra -n 3 -genv I_MPI_PIN 0 -genv HWLOC_COMPONENTS -gl {PLACEMENT} prog"


def test_two_nodes() -> None:
    assert "mpirun -np 3 --host node1:2,node2:1 --map-by " in line(OPEN_MPI_5, hosts=TWO_NODES)
    assert "mpiexec -n 3 -hosts node1:2,node2:1 -bind-to " in line(MPICH, hosts=TWO_NODES)
    assert "mpiexec.hydra -n 3 -hosts node1:2,node2:1, -genv " in line(INTEL, hosts=TWO_NODES)


HERE = {"lo": "127.0.0.0/8", "eth0": "10.0.0.0/24", "eth1": ""}


@pytest.mark.parametrize(
    "given", ["eth0", "eth1", "lo", "10.0.0.0/24", "10.0.0.7/8", "eth0,10.0.0.0/16", "127.0.0.1/8", "fe80::/10"]
)
def test_interfaces_of_this_host(given: str) -> None:
    check_interface(given, HERE)
    check_interface(given, None)


@pytest.mark.parametrize("given", ["eth7", "10.1.0.0/24", "eth0,eth7"])
def test_an_interface_that_only_another_host_may_have(given: str) -> None:
    check_interface(given, None)
    with pytest.raises(UserError, match=r"^--interface: .* is none of this host's: lo \(127.0.0.0/8\), eth0 \("):
        check_interface(given, HERE)


@pytest.mark.parametrize(
    "given", ["", "eth0,", "two words", "10.0.0.0/33", "a/b", "x" * 16, "-x", "eth0\n", "10.0.0.0/"]
)
def test_what_is_no_interface_anywhere(given: str) -> None:
    for here in (HERE, None):
        with pytest.raises(UserError, match=r"^--interface: .*is neither the name of an interface nor a subnet"):
            check_interface(given, here)


def test_a_colon_by_itself_would_end_the_program() -> None:
    assert without_lone_colons(("a", "--prompt", ":", "--x", ":", "a:", "")) == ("a", "--prompt=:", "--x=:", "a:", "")
    for words in ((":",), ("generate", ":"), ("--prompt", ":", ":")):
        with pytest.raises(UserError, match="launch: a ':' by itself"):
            without_lone_colons(words)


def test_threads_reach_the_placement() -> None:
    for launcher in (OPEN_MPI_4, OPEN_MPI_5, MPICH, INTEL):
        assert line(launcher, threads=2).endswith(f" {PLACEMENT} --threads 2 prog")


def test_where_memory_of_other_processes_is_closed() -> None:
    assert " --mca btl_vader_single_copy_mechanism none " in line(OPEN_MPI_4, cma_refused=True)
    assert " --mca smsc ^cma " in line(OPEN_MPI_5, cma_refused=True)
    assert " -genv MPIR_CVAR_CH4_CMA_ENABLE 0 " in line(MPICH, cma_refused=True)
    assert line(INTEL, cma_refused=True) == line(INTEL)


def test_the_network_between_the_hosts() -> None:
    ranks = "--mca btl_tcp_if_include"
    assert f" --prtemca prte_if_include eth1 {ranks} eth1 " in line(OPEN_MPI_5, interface="eth1")
    assert f" --mca oob_tcp_if_include 10.0.0.0/24 {ranks} 10.0.0.0/24 " in line(OPEN_MPI_4, interface="10.0.0.0/24")
    for launcher in (MPICH, INTEL):
        assert " -iface eth1 -genv FI_TCP_IFACE eth1 " in line(launcher, interface="eth1")
        with pytest.raises(UserError, match=r"--interface: 10\.0\.0\.0/24 is a subnet"):
            line(launcher, interface="10.0.0.0/24")


def test_root_and_the_users_own_options() -> None:
    assert " --allow-run-as-root " in line(OPEN_MPI_4, as_root=True)
    assert line(MPICH, as_root=True) == line(MPICH)
    own = Launcher(("mpirun", "--mca", "btl_tcp_if_include", "eth1"), "openmpi", 5)
    assert line(own).startswith("mpirun --mca btl_tcp_if_include eth1 -np 3 ")


def test_variables_for_all_ranks() -> None:
    exports = {"HWLOC_COMPONENTS": "-gl", "MPI_SPP_DEBUG_RANK": "1"}
    names = ("HF_HOME", "MPI_SPP_DEBUG_RANK")
    assert line(OPEN_MPI_5, exports=exports, passed_on=names).count(" -x ") == 3
    assert " -x MPI_SPP_DEBUG_RANK=1 -x HF_HOME " in line(OPEN_MPI_5, exports=exports, passed_on=names)
    assert " -genv MPI_SPP_DEBUG_RANK 1 " in line(MPICH, exports=exports, passed_on=names)
    assert " -genv MPI_SPP_DEBUG_RANK 1 " in line(INTEL, exports=exports, passed_on=names)


@pytest.mark.parametrize(
    ("given_components", "expected"), [("", "-gl"), ("-opencl", "-opencl,-gl"), ("x86,-gl", "x86,-gl")]
)
def test_hwloc_keeps_the_users_components(given_components: str, expected: str) -> None:
    assert without_gl(given_components) == expected


def test_default_number_of_ranks() -> None:
    assert default_num_ranks(TWO_NODES, (5,), 64) == 3
    assert default_num_ranks((), (5, 6), 64) == 2
    assert [default_num_ranks((), (), cores) for cores in (1, 2, 64)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("text", "vendor", "major"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to ...", "openmpi", 5),
        ("mpirun.openmpi (OpenRTE) 4.1.4", "openmpi", 4),
        ("HYDRA build details:\n    Version:                                 5.0.2\n", "mpich", 5),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b44796a)", "intel", 2021),
    ],
)
def test_launchers_are_known_by_their_version_text(text: str, vendor: Vendor, major: int) -> None:
    assert identify(("mpirun",), text) == Launcher(("mpirun",), vendor, major)


@pytest.fixture
def fake_launcher(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, text: str = "mpirun (Open MPI) 5.0.1", directory: str = "bin") -> Path:
        path = tmp_path / directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def test_the_launcher_beside_python_comes_first(fake_launcher: Callable[..., Path], tmp_path: Path) -> None:
    on_path = fake_launcher("mpirun", directory="elsewhere")
    path = {"PATH": str(on_path.parent)}
    assert find_launcher(path, str(tmp_path)).command == (str(on_path),)
    beside = fake_launcher("mpirun")
    assert find_launcher(path, str(tmp_path)).command == (str(beside),)
    chosen = {**path, "MPI_SPP_MPIRUN": "mpirun --mca btl tcp,self"}
    assert find_launcher(chosen, str(tmp_path)).command == (str(on_path), "--mca", "btl", "tcp,self")


def test_a_system_python_leaves_the_choice_to_path(fake_launcher: Callable[..., Path]) -> None:
    on_path = fake_launcher("mpiexec", "HYDRA build details:\n    Version:    4.2")
    assert find_launcher({"PATH": str(on_path.parent)}, "/usr") == Launcher((str(on_path),), "mpich", 4)


@pytest.mark.parametrize("chosen", ["", "nothing-of-that-name", "'open quote"])
def test_no_launcher_is_one_line(chosen: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MPI_SPP_MPIRUN"):
        find_launcher({"PATH": str(tmp_path), "MPI_SPP_MPIRUN": chosen}, str(tmp_path))


def test_a_foreign_launcher_is_one_line(fake_launcher: Callable[..., Path], tmp_path: Path) -> None:
    fake_launcher("mpirun", "torchrun 1.0")
    with pytest.raises(UserError, match="not the launcher of Open MPI, MPICH or Intel MPI"):
        find_launcher({}, str(tmp_path))


@pytest.mark.parametrize(
    ("gpu_ids", "num_ranks", "hosts"),
    [((5, 6, 7), 3, ()), ((5, 6, 7), 2, ()), ((0, 1), 3, TWO_NODES), ((0,), 2, (Host("a", 1), Host("b", 1)))],
)
def test_enough_gpu_ids(gpu_ids: tuple[int, ...], num_ranks: int, hosts: tuple[Host, ...]) -> None:
    check_gpu_ids(gpu_ids, num_ranks, hosts)


@pytest.mark.parametrize(
    ("gpu_ids", "num_ranks", "hosts", "complaint"),
    [
        ((5, 5), 2, (), "names a GPU twice"),
        ((5, 6), 3, (), "too short for the 3 ranks on this machine"),
        ((0,), 3, TWO_NODES, "too short for the 2 ranks on node1"),
        ((0, 1), 6, TWO_NODES, "too short for the 4 ranks on node1"),
    ],
)
def test_wrong_gpu_ids(gpu_ids: tuple[int, ...], num_ranks: int, hosts: tuple[Host, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_gpu_ids(gpu_ids, num_ranks, hosts)


CORES = st.lists(st.integers(0, 300), min_size=1, max_size=96, unique=True)


@given(cores=CORES, local_size=st.integers(1, 120))
def test_every_core_belongs_to_one_rank(cores: list[int], local_size: int) -> None:
    places = [place(cores, rank, local_size) for rank in range(local_size)]
    if local_size <= len(cores):
        assert [core for where in places for core in where.cores] == cores
        assert all(where.threads == len(where.cores) and not where.shares_cores for where in places)
        assert places[0].threads - places[-1].threads in (0, 1)
    else:
        assert all(where.cores == () and where.threads == 1 and where.shares_cores for where in places)


@given(cores=CORES, local_size=st.integers(1, 20), threads=st.integers(1, 20))
def test_threads_that_were_asked_for(cores: list[int], local_size: int, threads: int) -> None:
    places = [place(cores, rank, local_size, threads) for rank in range(local_size)]
    assert all(where.threads == threads for where in places)
    taken = [core for where in places for core in where.cores]
    assert len(taken) == len(set(taken))
    fits = local_size * threads <= len(cores)
    assert all(len(where.cores) == (threads if fits else 0) and where.shares_cores != fits for where in places)


@pytest.mark.parametrize(
    "quota, local_size, threads", [(1.0, 1, [1]), (1.0, 2, [1, 1]), (2.9, 1, [2]), (4.0, 2, [2, 2]), (99, 2, [4, 3])]
)
def test_threads_follow_a_quota_and_cores_stay(quota: float, local_size: int, threads: list[int]) -> None:
    places = [place([0, 1, 2, 3, 4, 5, 6], rank, local_size, quota=quota) for rank in range(local_size)]
    assert [where.threads for where in places] == threads
    assert sum(len(where.cores) for where in places) == 7
    assert all(where.shares_cores == (local_size > quota) for where in places)
    assert place([0, 1], 0, 1, 2, quota=1) == Place((0, 1), 2, True)


def test_one_thread_of_every_core_and_packages_together() -> None:
    """Two packages of two cores of two threads, numbered as Linux does on many servers: package by turns."""
    facts = {
        cpu: {"thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}", "physical_package_id": str(cpu % 2)}
        for cpu in range(8)
    }
    assert one_cpu_per_core(range(8), lambda cpu, name: facts[cpu][name]) == [0, 2, 1, 3]
    assert one_cpu_per_core([3, 6, 7], lambda cpu, name: facts[cpu][name]) == [6, 3]
    assert one_cpu_per_core([2, 1], lambda cpu, name: "") == [1, 2]


def test_the_launcher_tells_the_numbers_on_this_host() -> None:
    assert local_numbers({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}) == (1, 3)
    assert local_numbers({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}) == (0, 2)
    assert local_numbers({"PMI_RANK": "0"}) is None
    assert local_numbers({"MPI_LOCALRANKID": "x", "MPI_LOCALNRANKS": "2"}) is None
    assert local_numbers({"MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "2"}) is None


def test_launching_needs_no_mpi_and_no_torch() -> None:
    program = (
        "import sys, mpi_spp.cli.launch; print([m for m in ('mpi4py', 'torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.stdout == "[]\n", run.stderr


def test_the_editor_attaches_where_a_rank_waits() -> None:
    from mpi_spp.cli._debug import DEFAULT_PORT

    settings = json.loads((ROOT / ".vscode" / "launch.json").read_text())
    ports = [entry["connect"]["port"] for entry in settings["configurations"] if entry["request"] == "attach"]
    assert ports == [DEFAULT_PORT]
