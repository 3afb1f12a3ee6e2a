"""Amounts of memory, and the limits of hosts."""

from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import memory_limits, read_hostfile
from mpi_spp.system.units import limits_by_host, memory_warnings, parse_bytes, parse_limit, show_bytes


@pytest.mark.parametrize("text, count", [("8GiB", 8 << 30), ("500MB", 500_000_000), ("2g", 2 << 30), ("512", 512)])
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text, "--max-memory") == count


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "1XB", "1e9"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UserError, match="--max-memory"):
        parse_bytes(text, "--max-memory")


def test_shown_amounts() -> None:
    assert [show_bytes(count) for count in (512, 1 << 20, 3 << 29)] == ["512 B", "1 MiB", "1.5 GiB"]


def test_limits_by_host() -> None:
    limit = parse_limit("node1=8GiB, node2=4G", "--max-memory")
    assert limits_by_host(limit, ["node1.cluster", "node2", "node3"], "--max-memory") == {
        "node1.cluster": 8 << 30,
        "node2": 4 << 30,
    }
    assert limits_by_host(parse_limit("1K", "--max-memory"), ["a", "b", "a"], "--max-memory") == {"a": 1024, "b": 1024}
    assert limits_by_host(None, ["a"], "--max-memory") == {}


@pytest.mark.parametrize("text", ["node1=", "=8GiB", "node1=1G,node1=2G", "node1=1G,2G"])
def test_limits_that_are_not_understood(text: str) -> None:
    with pytest.raises(UserError, match="--max-memory: "):
        parse_limit(text, "--max-memory")


def test_a_limit_for_a_host_that_is_not_there() -> None:
    with pytest.raises(UserError, match="--max-memory: node3 is no host of this run; those are node1, node2"):
        limits_by_host((("node3", 1),), ["node1", "node2"], "--max-memory")


def test_limits_of_a_hostfile(tmp_path: Path) -> None:
    """As the option reads them."""
    path = tmp_path / "hosts"
    path.write_text("node1 slots=2 max-memory=8GiB\nnode2:3\nnode3 slots=1 max-memory=500MB\n")
    text = memory_limits(read_hostfile(path))
    assert parse_limit(text, "--max-memory") == (("node1", 8 << 30), ("node3", 500_000_000))


def test_hosts_with_too_little_memory_are_named() -> None:
    gib = 2**30
    ranks = [("a", gib, 3 * gib), ("a", gib, 2 * gib), ("b", gib, 2 * gib), ("b", 2 * gib, 2 * gib), ("c", 1, 0)]
    (line,) = memory_warnings(ranks)
    assert line.startswith(
        "the weights of all ranks on b take 3 GiB, and 2 GiB are free: they may be killed (signal 9)"
    )
