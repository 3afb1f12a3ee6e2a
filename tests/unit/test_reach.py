"""What is asked of other hosts before the launcher starts; a made-up ssh answers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.launcher import Launcher
from mpi_spp.launch.preflight import require_hosts

OPEN_MPI = Launcher(("mpirun",), "openmpi", 5)
ASKED = "-o BatchMode=yes -o ConnectTimeout=10"


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes an ssh of a shell script, and returns the file in which the script may note what it was asked."""

    def make(script: str) -> Path:
        path = tmp_path / "ssh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return tmp_path / "asked"

    return make


def hosts(*names: str) -> tuple[Host, ...]:
    return tuple(Host(name, 1) for name in names)


def test_every_other_host_is_asked_for_this_python(ssh: Callable[[str], Path]) -> None:
    asked = ssh('echo "$@" >>"$(dirname "$0")/asked"')
    require_hosts(hosts("localhost", "me@node2", "node3"), OPEN_MPI, {})
    lines = sorted(asked.read_text().splitlines())
    assert lines == [f"{ASKED} {name} test -x {sys.executable}" for name in ("me@node2", "node3")]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo Welcome >&2; echo 'no such name.' >&2; exit 255", r"node2 cannot be reached by ssh \(no such name\);"),
        ("exit 255", r"node2 cannot be reached by ssh \(it does not say why\); make `ssh node2 true` work"),
        ("exit 1", f"node2 has no {sys.executable}; every host needs this Python under the same path"),
    ],
)
def test_a_host_that_cannot_is_one_line(ssh: Callable[[str], Path], script: str, complaint: str) -> None:
    ssh(script)
    with pytest.raises(UserError, match=f"^--hostfile: {complaint}") as caught:
        require_hosts(hosts("node2"), OPEN_MPI, {})
    assert "\n" not in str(caught.value)


def test_the_first_is_named_and_the_others_are_counted(ssh: Callable[[str], Path]) -> None:
    ssh('case "$5" in node3) exit 0;; esac; exit 255')
    with pytest.raises(UserError, match=r"--hostfile: node2 cannot .* \(and 1 more like it\)$"):
        require_hosts(hosts("node2", "node3", "node4"), OPEN_MPI, {})


def test_no_ssh_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="node2 cannot be reached, since there is no ssh on PATH"):
        require_hosts(hosts("node2"), OPEN_MPI, {})


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (("mpirun",), {"SLURM_JOB_ID": "7"}),
        (("mpirun",), {"PBS_JOBID": "7.site"}),
        (("mpirun",), {"PRTE_MCA_plm_ssh_agent": "rsh"}),
        (("mpirun",), {"HYDRA_LAUNCHER": "rsh"}),
        (("mpirun", "--mca", "plm_rsh_agent", "rsh"), {}),
        (("mpiexec", "-launcher", "rsh"), {}),
        (("mpiexec.hydra", "-bootstrap", "rsh"), {}),
    ],
)
def test_nobody_is_asked_where_ranks_start_without_ssh(
    ssh: Callable[[str], Path], command: tuple[str, ...], environment: dict[str, str]
) -> None:
    ssh("exit 255")
    require_hosts(hosts("node2"), Launcher(command, "openmpi", 5), environment)


def test_other_options_of_the_user_change_nothing(ssh: Callable[[str], Path]) -> None:
    ssh("exit 255")
    with pytest.raises(UserError, match="node2"):
        require_hosts(hosts("node2"), Launcher(("mpirun", "--mca", "btl", "tcp,self"), "openmpi", 5), {"HOME": "/plm"})
