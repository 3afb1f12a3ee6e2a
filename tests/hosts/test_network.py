"""The hosts themselves: apart from one another and from the machine, with links as fast as they were made."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.hosts.keeper import processes_of
from benchmarks.hosts.machine import run, why_not
from benchmarks.hosts.network import Host, Network

BYTES = 20_000_000


def test_a_machine_that_cannot_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name in ("sshd", "ip") else name)
    assert why_not() == "several hosts on this machine need sshd, ip; install iproute2, openssh-server"


def test_every_host_has_its_own_name_and_reaches_the_others(three_hosts: Network) -> None:
    first, *others = three_hosts.hosts
    for host in others:
        assert run(*first.line("ssh", host.name, "uname", "-n")) == f"{host.name}\n"
        assert run(*host.line("ssh", first.name, "uname", "-n")) == f"{first.name}\n"
    assert run(*first.line("pwd")) == f"{Path.cwd()}\n"
    assert socket.gethostname() not in [host.name for host in three_hosts.hosts]


def test_nothing_of_the_machine_is_touched_and_nothing_stays(three_hosts: Network) -> None:
    assert not {"br0", "port1"} & {name for _, name in socket.if_nameindex()}
    assert "node1" not in Path("/etc/hosts").read_text()
    run(*three_hosts.hosts[0].line("ssh", "node2", "nohup sleep 1000 >/dev/null 2>&1 &"))
    assert three_hosts.hosts[1].processes()
    for host in three_hosts.hosts:
        host.power_off()
        assert host.processes() == [] and host.sshd.poll() is not None


def test_nothing_stays_when_the_maker_is_killed(possible: None) -> None:
    started = (
        "import subprocess, time; from benchmarks.hosts.network import network\n"
        "with network(1) as made:\n"
        "    subprocess.Popen(made.hosts[0].line('sleep', '1000'))\n"
        "    while not made.hosts[0].processes(): time.sleep(0.01)\n"
        "    print(made.hostfile.parent, made.hosts[0].namespace, flush=True)\n"
        "    time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", started], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        directory, namespace = maker.stdout.readline().split()
        assert len(processes_of(namespace)) == 2 and Path(directory).exists()
        maker.kill()
    deadline = time.monotonic() + 10
    while (processes_of(namespace) or Path(directory).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(namespace) == [] and not Path(directory).exists()


def test_links_are_as_fast_as_they_are_made(three_hosts: Network) -> None:
    free = seconds_to_fetch(three_hosts.hosts[0], "node2")
    three_hosts.shape(100e6)
    least = BYTES * 8 / 100e6
    assert free < least < seconds_to_fetch(three_hosts.hosts[0], "node2") < 1.5 * least + free
    three_hosts.shape(None)
    assert seconds_to_fetch(three_hosts.hosts[0], "node2") < least


def seconds_to_fetch(host: Host, other: str) -> float:
    start = time.monotonic()
    run(*host.line("sh", "-c", f"ssh {other} head -c {BYTES} /dev/zero >/dev/null"))
    return time.monotonic() - start
