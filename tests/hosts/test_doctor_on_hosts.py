"""The doctor on three hosts, two of which have a defect of their own."""

import json
import sys
from pathlib import Path

import reciting_model
from mpirun import mpi_spp, run

from benchmarks.hosts.machine import run as on_machine
from benchmarks.hosts.network import Host, Network

RUN_SECONDS = 120.0  # three ranks on the cores of a machine that may be busy; 10 on two free ones
BITS_PER_SECOND = 100e6


def cover(host: Host, directory: Path, *options: str) -> None:
    """An empty file system in the place of a directory, on this host alone."""
    on_machine(
        "nsenter", f"--target={host.sshd.pid}", "--mount", "mount", "-t", "tmpfs", *options, "tmpfs", str(directory)
    )


def test_what_one_host_lacks_is_named(three_hosts: Network, tmp_path: Path) -> None:
    model = reciting_model.build(tmp_path / "disk" / "model")
    first, second, third = three_hosts.hosts
    three_hosts.shape(BITS_PER_SECOND)
    cover(second, model.parent)
    cover(third, Path("/dev/shm"), "-o", "size=4m")
    words = ["launch", "--hostfile", str(three_hosts.hostfile), "--interface", "eth0", "--threads", "1"]
    doctor = ["doctor", "--model", str(model), "--json", "-"]
    ended = run(first.line(*mpi_spp(*words, "--", *doctor, python=sys.executable)), timeout=RUN_SECONDS)
    assert ended.status == 1, ended.stderr
    findings = json.loads(ended.stdout)

    def about(id: str, host: str) -> str:
        """What was found there of this kind; nothing elsewhere."""
        (finding,) = [one for one in findings if one["id"] == id and one["level"] in ("warning", "failure")]
        assert finding["hosts"] == [host] and finding["do"]
        return str(finding["what"])

    assert "model is neither a directory" in about("model", "node2")
    assert "4 MiB free in /dev/shm" in about("shm", "node3")
    links = [finding for finding in findings if finding["id"] == "link"]
    assert sorted(link["hosts"] for link in links) == [["node1", "node2"], ["node1", "node3"], ["node2", "node3"]]
    rates = [float(link["what"].split(", ")[1].split()[0]) for link in links]
    assert all(2 < rate < BITS_PER_SECOND / 8e6 * 1.5 for rate in rates), links
    (interface,) = [finding for finding in findings if finding["id"] == "interface"]
    assert interface["hosts"] == ["node1", "node2", "node3"] and "eth0" in interface["what"]
    (clock,) = [finding for finding in findings if finding["id"] == "clock"]
    assert clock["level"] == "ok"
