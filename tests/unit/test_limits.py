"""What control groups allow: trees of files as Linux shows them."""

from pathlib import Path

import pytest

from mpi_spp.system.limits import cpu_quota, memory_available, memory_kills, within_quota


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A /proc and a /sys with these groups of this process, and these files below /sys/fs/cgroup."""
    contents = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    contents |= {"proc/self/cgroup": groups, "proc/meminfo": "MemAvailable: 1000 kB\n"}
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "groups, files, quota",
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000", "cpu.max": "200000 100000"}, 0.5),
        ("0::/docker/not-seen-inside", {"cpu.max": "100000 100000"}, 1.0),
        ("4:cpu,cpuacct:/a\n0::/", {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000"}, None),
        (
            "4:cpu,cpuacct:/a\n0::/",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/not/seen\n", {"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "50000"}, 0.5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "x", "cpu/cpu.cfs_period_us": ""}, None),
        ("0::/", {"cpu.max": "0 100000"}, None),
        ("", {"cpu.max": "100000 100000"}, None),
    ],
)
def test_a_quota_of_cpu_time(groups: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, groups, files)) == quota


@pytest.mark.parametrize(
    "groups, files, available",
    [
        ("0::/", {}, 1_024_000),
        ("0::/a", {"memory.max": "5000", "memory.current": "4000", "a/memory.max": "max"}, 1000),
        ("4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "5000", "memory/a/memory.usage_in_bytes": "1"}, 4999),
    ],
)
def test_memory(groups: str, files: dict[str, str], available: int, tmp_path: Path) -> None:
    assert memory_available(tree(tmp_path, groups, files)) == available


def test_processes_that_were_ended_for_want_of_memory(tmp_path: Path) -> None:
    assert memory_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 17\noom_kill 3\n")
    assert memory_kills(tmp_path) == 3


@pytest.mark.parametrize("quota, processes, threads", [(None, 3, 8), (1, 1, 1), (1, 2, 1), (5, 2, 2), (100, 2, 8)])
def test_threads_within_a_quota(quota: float | None, processes: int, threads: int) -> None:
    assert within_quota(8, quota, processes) == threads
