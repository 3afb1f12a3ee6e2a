"""Hostfiles of every MPI: what they say is read, and what they cannot mean is named by its line."""

import os
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host, read_hostfile
from mpi_spp.launch.line import check_max_slots

ROOT = Path(__file__).parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hosts"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "node1 slots=2\nnode2 slots=1\n",
        "node1:2\nnode2:1\n",
        "# two hosts\n\nnode1  slots = 2 # the big one\n\tnode2\n",
        "node1\nnode2\nnode1\n",
        "\ufeffnode1 slots=2\r\nnode2 slots=1\r\n",
    ],
)
def test_both_formats_of_hostfiles(text: str, tmp_path: Path) -> None:
    assert read_hostfile(write(tmp_path, text)) == (Host("node1", 2), Host("node2", 1))


def test_the_most_that_a_host_takes(tmp_path: Path) -> None:
    """Open MPI writes it in both ways."""
    hosts = read_hostfile(write(tmp_path, "a slots=2 max_slots=4\nb max-slots = 3 max-memory=1GiB\nc slots=1\n"))
    assert hosts == (Host("a", 2, None, 4), Host("b", 3, 1 << 30, 3), Host("c", 1))
    check_max_slots(6, hosts)
    check_max_slots(9, (Host("a", 1, None, 9),))
    with pytest.raises(UserError, match="-np: 9 ranks would be 5 on b, which takes 3 at most"):
        check_max_slots(9, (Host("b", 1, None, 3), Host("c", 1)))


def test_the_names_of_this_machine_are_one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node1.site", "", "", "")))
    text = "localhost:2\nnode2:4\nnode1.site:1\nnode1:1\n"
    assert read_hostfile(write(tmp_path, text)) == (Host("localhost", 4), Host("node2", 4))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no host"),
        ("# nothing\n\n", "names no host"),
        ("node1:2\nnode2 slots=two\n", "line 2: 'node2 slots=two' is not understood"),
        ("node1:2 slots=2\n", "line 1: 'node1:2 slots=2' is not understood"),
        ("node1 node2\n", "line 1: 'node1 node2' is not understood"),
        ("node1 max_slots=4 cpu=2\n", "line 1: 'node1 max_slots=4 cpu=2' is not understood"),
        ("node1 slots=2 slots=2\n", "line 1: 'node1 slots=2 slots=2' is not understood"),
        ("node1 slots=2 max_slots=1\n", "line 1: node1 has max_slots 1 and slots 2"),
        ("node1 max_slots=x\n", "line 1: 'node1 max_slots=x' is not understood"),
        ("-oProxyCommand\n", "line 1: '-oProxyCommand' is not understood"),
        (f"node1 slots={'9' * 5000}\n", "line 1: 'node1 slots=999"),
        ("node1 slots=60000\nnode2:60000\n", "more than 65536 slots in all"),
        ("".join(f"n{number}\n" for number in range(70_000)), "more than 65536 slots in all"),
        ("node1:-1\n", "line 1: 'node1:-1' is not understood"),
        ("\nnode1:0\n", "line 2: node1 has 0 slots"),
    ],
)
def test_bad_hostfiles_name_the_line(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        read_hostfile(write(tmp_path, text))


def test_unreadable_hostfiles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_hostfile(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_hostfile(tmp_path / "binary")


@pytest.mark.parametrize("path", sorted(path for path in (ROOT / "hostfiles").iterdir() if path.suffix != ".md"))
def test_the_example_hostfiles_are_read(path: Path) -> None:
    expected = {"local3": (3,), "two_nodes": (2, 2)}[path.name.split(".")[0]]
    assert tuple(host.slots for host in read_hostfile(path)) == expected
