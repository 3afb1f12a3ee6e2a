"""Batch scripts: the right numbers in valid shell; nothing is submitted but to a made-up sbatch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpi_spp.cli.launch import command
from mpi_spp.errors import UserError
from mpi_spp.launch import slurm
from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.line import LaunchRequest
from mpi_spp.launch.slurm import Allocation, batch_script
from mpi_spp.system import start

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "docs" / "clusters.md"
SHARED_PACKAGE = "/shared/venv/lib/python3.12/site-packages/mpi_spp"
GENERATE = ("generate", "--model", "m", "--prompt", "it's $HOME")
THREE_NODES = (Host("a", 2), Host("b", 2), Host("c", 1))


def script(num_ranks: int, threads: int | None = None, hosts: tuple[Host, ...] = (), **asked: Any) -> str:
    exports = {"HWLOC_COMPONENTS": "-gl"}
    request = LaunchRequest(command=("prog",), num_ranks=num_ranks, hosts=hosts, threads=threads, exports=exports)
    text = batch_script(request, Allocation(**asked))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)
    return text


def options(text: str) -> dict[str, str]:
    """Those of sbatch, which stand before the first command."""
    head = text.split("\n\n")[0].splitlines()
    assert head[0] == "#!/bin/bash" and text.count("#SBATCH") == len(head) - 1
    return dict(re.fullmatch(r"#SBATCH --([a-z-]+)=(\S+)", line).groups() for line in head[1:])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "num_ranks, threads, nodes, per_node",
    [(1, None, None, 1), (4, 8, None, 4), (4, 8, 2, 2), (5, 2, 2, 3), (7, 1, 7, 1), (7, 3, 3, 3)],
)
def test_numbers(num_ranks: int, threads: int | None, nodes: int | None, per_node: int) -> None:
    text = script(num_ranks, threads, nodes=nodes)
    assert options(text) == {
        "job-name": "mpi-spp",
        "nodes": str(nodes or 1),
        "ntasks": str(num_ranks),
        "ntasks-per-node": str(per_node),
        "cpus-per-task": str(threads or 1),
        "hint": "nomultithread",
    }
    last = [f"export OMP_NUM_THREADS={threads or 1}", "", f"srun --mpi=pmix --cpus-per-task={threads or 1} prog"]
    assert text.splitlines()[-4:] == ["export HWLOC_COMPONENTS=-gl", *last]


def test_hosts_are_nodes() -> None:
    given = options(script(5, 1, THREE_NODES))
    assert {name: given[name] for name in ("nodes", "nodelist", "ntasks", "ntasks-per-node")} == {
        "nodes": "3", "nodelist": "a,b,c", "ntasks": "5", "ntasks-per-node": "2",
    }  # fmt: skip


def test_the_network_is_told_by_variables() -> None:
    def exports(interface: str) -> list[str]:
        request = LaunchRequest(command=("prog",), num_ranks=1, interface=interface)
        return [line for line in batch_script(request, Allocation()).splitlines() if "export" in line]

    threads = "export OMP_NUM_THREADS=1"
    assert exports("ib0") == ["export OMPI_MCA_btl_tcp_if_include=ib0", "export FI_TCP_IFACE=ib0", threads]
    assert exports("10.0.0.0/24") == ["export OMPI_MCA_btl_tcp_if_include=10.0.0.0/24", threads]


def test_everything_that_can_be_asked_for() -> None:
    given = options(script(2, 1, time="1-12:00", partition="long,short", account="p-1", gpus_per_node=2))
    assert [given[name] for name in ("time", "partition", "account", "gpus-per-node")] == [
        "1-12:00", "long,short", "p-1", "2",
    ]  # fmt: skip
    assert "srun --mpi=pmi2 " in script(2, mpi="pmi2")


@pytest.mark.parametrize(
    "num_ranks, hosts, asked, says",
    [
        (2, (), {"nodes": 3}, "--nodes: 3 nodes for 2 ranks"),
        (5, THREE_NODES, {"nodes": 3}, "--nodes: given with --hostfile"),
        (4, (Host("a", 3), Host("b", 1)), {}, "--hostfile: its slots are 3,1"),
        (1, (), {"time": "soon"}, "--time: 'soon' is no time limit"),
        (1, (), {"time": "1\n2"}, "--time:"),
        (1, (), {"partition": "a b"}, "--partition: 'a b' is no name"),
        (1, (), {"account": "x\n#SBATCH --exclusive"}, "--account:"),
        (1, (), {"mpi": ""}, "--mpi: '' is no name"),
    ],
)
def test_what_slurm_could_not_do(num_ranks: int, hosts: tuple[Host, ...], asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        script(num_ranks, hosts=hosts, **asked)


def test_default_number_of_ranks() -> None:
    assert Allocation(nodes=2).default_num_ranks(THREE_NODES) == 5
    assert Allocation(nodes=2, gpus_per_node=4).default_num_ranks(()) == 8
    assert Allocation().default_num_ranks(()) == 1


def launch(*arguments: str, inner: tuple[str, ...] = GENERATE) -> Result:
    return CliRunner().invoke(command, [*arguments, "--", *inner])


def test_the_dry_run_prints_the_script() -> None:
    asked = ("--scheduler", "slurm", "-np", "4", "--nodes", "2", "--threads", "3", "--time", "30", "--dry-run")
    shown = launch(*asked)
    assert shown.exit_code == 0 and options(shown.stdout)["cpus-per-task"] == "3"
    words = subprocess.run(
        ["bash", "-c", f"srun() {{ printf '%s\\n' \"$@\"; }}\n{shown.stdout}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert words == ["--mpi=pmix", "--cpus-per-task=3", *start.words(), *GENERATE, "--threads", "3"]
    as_json = json.loads(launch(*asked, "--json", "-").stdout)
    assert as_json == {"argv": ["sbatch"], "environment": {}, "script": shown.stdout}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--nodes", "2"), "--nodes: is for a batch system"),
        (("--gpus-per-node", "2"), "--gpus-per-node: is for a batch system"),
        (("--mpi", "pmi2"), "--mpi: is for a batch system"),
        (("--scheduler", "slurm", "--gpu-ids", "0,1"), "--gpu-ids: Slurm numbers the GPUs"),
        (("--scheduler", "slurm"), "sbatch: not found on PATH"),
    ],
)
def test_options_in_the_wrong_place(arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused = launch(*arguments)
    assert isinstance(refused.exception, UserError) and says in str(refused.exception)


@pytest.mark.parametrize("status", [0, 1])
def test_sbatch_gets_the_script(status: int, tmp_path: Path) -> None:
    """Its words and its status are the command's."""
    fake = tmp_path / "sbatch"
    fake.write_text(f"#!/bin/sh\ncat > {tmp_path}/script\necho Submitted batch job 7\nexit {status}\n")
    fake.chmod(0o755)
    asked = ["-m", "mpi_spp", "launch", "--scheduler", "slurm", "-np", "2"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *asked, "--", "doctor"], env=os.environ | path, capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stdout) == (status, "Submitted batch job 7\n"), ended.stderr
    assert options((tmp_path / "script").read_text())["ntasks"] == "2"


def test_a_slow_sbatch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when Slurm's controller does not answer."""
    fake = tmp_path / "sbatch"
    fake.write_text(f"#!/bin/sh\nsleep 0.5\ncat > {tmp_path}/script\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_SECONDS_BETWEEN_SIGNS", 0.2)
    long = "#" * (1 << 20)  # more than a pipe takes at once
    assert slurm.submit(long) == 3
    assert (tmp_path / "script").read_text() == long
    assert capfd.readouterr().err.startswith("mpi-spp: sbatch has not answered for 0 s; still waiting (")


def test_the_page_shows_what_the_dry_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HWLOC_COMPONENTS", raising=False)
    page = CLUSTERS.read_text()
    (shown,) = re.findall(r"    \$ mpi-spp launch (--scheduler slurm .*)\n((?:    .*\n|\n)+)", page)
    arguments, printed = shown
    asked, inner = arguments.split(" -- ")
    result = launch(*asked.split(), inner=tuple(inner.split()))
    assert result.exit_code == 0, result.exception
    wanted = "".join(f"    {line}".rstrip() + "\n" for line in result.stdout.splitlines())
    assert printed.rstrip("\n") == wanted.replace(sys.executable, "/shared/venv/bin/python").replace(
        start.words()[1], SHARED_PACKAGE
    ).rstrip("\n")
