"""What is read from the system's own texts, and which files of a model are told apart."""

import json
import struct
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.instruments.doctor.facts import facts_here
from mpi_spp.instruments.doctor.interfaces import Route, parse_routes, route_to
from mpi_spp.instruments.doctor.machine import cores_of, cpus_online, listens_on, parse_cpus
from mpi_spp.instruments.doctor.software import NOT_THERE
from mpi_spp.model.loading.fingerprint import digests
from mpi_spp.system.limits import parse_meminfo, room_in_group

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t00000000\t01090A0A\t0003\t0\t0\t50\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth2\t000200C0\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
SOCKETS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1770 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:1776 00000000:0000 01 00000000:00000000 00:00000000 00000000     0
"""


def test_routes() -> None:
    routes = parse_routes(ROUTES)
    assert Route("eth0", "192.0.2.0/24") in routes and len(routes) == 3  # one of the four is down
    assert route_to("192.0.2.7", routes) == Route("eth0", "192.0.2.0/24")
    assert route_to("198.51.100.1", routes) == Route("eth1", "0.0.0.0/0", 50)
    assert route_to("192.0.2.7", ()) is None


@pytest.mark.parametrize("text, cpus", [("0-3,8", [0, 1, 2, 3, 8]), ("5", [5]), ("", [])])
def test_lists_of_cpus(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


def test_memory() -> None:
    assert parse_meminfo("MemTotal:  100 kB\nMemAvailable:   64 kB\nHugePages_Total:  3\n")["MemAvailable"] == 65536
    assert room_in_group("1000", "900", "anon 5\ninactive_file 300", "inactive_file") == 400
    assert room_in_group("1000", "1100", "", "inactive_file") == 0


@pytest.mark.parametrize("port, listens", [(6000, True), (6006, False), (80, False)])
def test_sockets(port: int, listens: bool) -> None:
    """A connection on the port is no listener."""
    assert listens_on(SOCKETS, port) is listens


def test_this_machine() -> None:
    facts = facts_here("no/such/model")
    assert facts.cores and set(facts.cores) <= set(cores_of(cpus_online()))
    assert facts.host_cores >= len(facts.cores)
    assert facts.memory_available > 1 << 20
    assert NOT_THERE not in facts.versions.values() and "source" in facts.versions["mpi-spp"]
    assert facts.model is not None and facts.model.directory is None and "--model" in str(facts.model.problem)
    assert facts_here(None).model is None


def write_model(directory: Path, shape: int = 1, weights: bytes = b"1234") -> Path:
    directory.mkdir()
    header = json.dumps({"x": {"dtype": "F32", "shape": [shape], "data_offsets": [0, 4]}}).encode()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    (directory / "notes.md").write_text("not read by a run")
    return directory


def test_digests_of_a_model(tmp_path: Path) -> None:
    """Of weights the header and the size count, not the numbers."""
    first = digests(write_model(tmp_path / "first"))
    assert set(first) == {"config.json", "model.safetensors"}
    assert digests(write_model(tmp_path / "same", weights=b"9876")) == first
    for other in (write_model(tmp_path / "shape", shape=2), write_model(tmp_path / "size", weights=b"12345")):
        assert digests(other)["model.safetensors"] != first["model.safetensors"]
    (tmp_path / "first" / "config.json").write_text("{ }")
    assert digests(tmp_path / "first")["config.json"] != first["config.json"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    (directory / "gone.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"gone\.json: cannot be read \(No such file"):
        digests(directory)
