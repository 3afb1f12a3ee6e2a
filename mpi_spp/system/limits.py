"""What the machine, a container or a batch system lets this process have."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mpi_spp.errors import UserError

_FEW_THREADS, _THREADS_OF_A_CORE = 64, 4

# By the controllers that /proc/self/cgroup names: where the groups are, the limit, the usage, and that of cached files.
_MEMORY_FILES = {
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}
_ROOT = Path("/")  # tests have another


def read(path: str | Path) -> str:
    """Return a file's text without the space around it; empty when it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return ""


def require_threads(threads: int) -> None:
    """Raise UserError where so many would only take one another's time, or could not be started."""
    cores = os.cpu_count() or 1
    if threads > max(_FEW_THREADS, _THREADS_OF_A_CORE * cores):
        raise UserError(f"--threads: {threads} is far more than the {cores} cores here; leave it out, or give fewer")


def memory_available(root: Path = _ROOT) -> int:
    """Return the bytes that new processes can have without swapping, within what a batch system or container allows."""
    free = parse_meminfo(read(root / "proc/meminfo")).get("MemAvailable", 0)
    return min([free, *_cgroup_rooms(root)])


def parse_meminfo(text: str) -> dict[str, int]:
    """Return bytes by name."""
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * (1024 if row[-1] == "kB" else 1) for row in rows if len(row) > 1}


def room_in_group(limit: str, usage: str, statistics: str, cache_name: str) -> int:
    """Return the bytes left: files that are only kept in case they are read again give way."""
    rows = dict(line.split() for line in statistics.splitlines())
    return max(0, int(limit) - int(usage or 0) + int(rows.get(cache_name, 0)))


def memory_kills(root: Path = _ROOT) -> int:
    """Return how many processes Linux has ended for want of memory since it started, in control groups too."""
    rows = (line.split() for line in read(root / "proc/vmstat").splitlines())
    return next((int(row[1]) for row in rows if row[0] == "oom_kill"), 0)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return how many cores' time all processes of this one's control groups may use together; None: no limit.

    As `docker --cpus`, a limit of Kubernetes or systemd's CPUQuota sets it. More threads than that only wait for it.
    """
    told = [read(group / "cpu.max").split() for group in _groups("", "sys/fs/cgroup", root)]
    for controllers in ("cpu", "cpu,cpuacct", "cpuacct,cpu"):
        for group in _groups(controllers, f"sys/fs/cgroup/{controllers}", root):
            told.append([read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")])
    quotas = [int(row[0]) / int(row[1]) for row in told if len(row) == 2 and all(map(str.isdigit, row))]
    return min((quota for quota in quotas if quota > 0), default=None)


def within_quota(threads: int, quota: float | None, processes: int) -> int:
    """Return how many of the threads of each process a quota has time for, at least 1."""
    return threads if quota is None else max(1, min(threads, int(quota / processes)))


def _cgroup_rooms(root: Path) -> list[int]:
    """Return the bytes that are left in each control group around this process with a limit, in versions 1 and 2."""
    found = []
    for controllers, (folder, limit, usage, cache) in _MEMORY_FILES.items():
        for group in _groups(controllers, folder, root):
            told = [read(group / name) for name in (limit, usage, "memory.stat")]
            if told[0].isdigit():
                found.append(room_in_group(told[0], told[1], told[2], cache))
    return found


def _groups(controllers: str, folder: str, root: Path) -> Iterator[Path]:
    """The control groups around this process, the innermost first. In a container all but the last may not be there."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, found, path = line.split(":", 2)
        if found == controllers:
            inner = root / folder / path.strip("/")
            yield from (group for group in (inner, *inner.parents) if group.is_relative_to(root / folder))
