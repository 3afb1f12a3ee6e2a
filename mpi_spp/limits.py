"""What the machine, a container or a batch system lets this process have."""

import contextlib
import os
from pathlib import Path

from mpi_spp.errors import UserError

_FEW_THREADS, _THREADS_OF_A_CORE = 64, 4

# By the controllers that /proc/self/cgroup names: where the groups are, the limit, the usage, and that of cached files.
_CGROUP_FILES = {
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


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


def memory_available() -> int:
    """Return the bytes that new processes can have without swapping, within what a batch system or container allows."""
    free = parse_meminfo(read("/proc/meminfo")).get("MemAvailable", 0)
    return min([free, *_cgroup_rooms(read("/proc/self/cgroup"))])


def parse_meminfo(text: str) -> dict[str, int]:
    """Return bytes by name."""
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * (1024 if row[-1] == "kB" else 1) for row in rows if len(row) > 1}


def _cgroup_rooms(text: str) -> list[int]:
    """Return the bytes that are left in each control group around this process with a limit, in versions 1 and 2."""
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in _CGROUP_FILES:
            root, limit, usage, cache = _CGROUP_FILES[controllers]
            inner = Path(root, path.strip("/"))
            for group in (inner, *inner.parents):
                told = [read(group / name) for name in (limit, usage, "memory.stat")]
                if group.is_relative_to(root) and told[0].isdigit():
                    found.append(room_in_group(told[0], told[1], told[2], cache))
    return found


def room_in_group(limit: str, usage: str, statistics: str, cache_name: str) -> int:
    """Return the bytes left: files that are only kept in case they are read again give way."""
    rows = dict(line.split() for line in statistics.splitlines())
    return max(0, int(limit) - int(usage or 0) + int(rows.get(cache_name, 0)))
