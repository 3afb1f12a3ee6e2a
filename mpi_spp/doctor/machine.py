"""What Linux tells of a machine: cores, memory, clocks. What it does not tell is empty, never an error."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from mpi_spp.launch.placement import kernel_fact

_NODES = Path("/sys/devices/system/node")
# By the controllers that /proc/self/cgroup names: where the groups are, the limit, the usage, and that of cached files.
_CGROUP_FILES = {
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}
_X_PORT = 6006  # where hwloc looks for an X server, see docs/clusters.md


def read(path: str | Path) -> str:
    """A file's text without the space around it; empty when it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text().strip()
    return ""


def parse_cpus(text: str) -> list[int]:
    """Read `0-3,8`, as the kernel writes lists of CPUs."""
    ends = [part.split("-") for part in text.split(",") if part]
    return [cpu for part in ends for cpu in range(int(part[0]), int(part[-1]) + 1)]


def cores_of(cpus: Iterable[int]) -> tuple[int, ...]:
    """The physical cores that these CPUs are hardware threads of; a core is called by its first one."""
    return tuple(sorted({min(parse_cpus(kernel_fact(cpu, "thread_siblings_list")) or [cpu]) for cpu in cpus}))


def cpus_online() -> list[int]:
    """Of the whole machine, whoever may use them."""
    return parse_cpus(read("/sys/devices/system/cpu/online")) or list(range(os.cpu_count() or 1))


def numa_nodes() -> list[list[int]]:
    """The CPUs of each node that has any."""
    found = [parse_cpus(read(path / "cpulist")) for path in sorted(_NODES.glob("node[0-9]*"))]
    return [cpus for cpus in found if cpus]


def shm_sizes() -> tuple[int, int] | None:
    """Bytes that are free in /dev/shm, and all of it; None: there is none."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def memory_available() -> int:
    """Bytes that new processes can have without swapping, within what the batch system or container allows."""
    free = parse_meminfo(read("/proc/meminfo")).get("MemAvailable", 0)
    return min([free, *_cgroup_rooms(read("/proc/self/cgroup"))])


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name."""
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * (1024 if row[-1] == "kB" else 1) for row in rows if len(row) > 1}


def _cgroup_rooms(text: str) -> list[int]:
    """Bytes that are left in each control group around this process that has a limit, in versions 1 and 2."""
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
    """Bytes left: files that are only kept in case they are read again give way."""
    rows = dict(line.split() for line in statistics.splitlines())
    return max(0, int(limit) - int(usage or 0) + int(rows.get(cache_name, 0)))


def is_wsl() -> bool:
    """Whether this is Linux inside Windows."""
    return "microsoft" in read("/proc/version").lower()


def x_port_is_open() -> bool:
    """Whether a program listens on the port that hwloc takes for an X server's."""
    return any(listens_on(read(f"/proc/net/{table}"), _X_PORT) for table in ("tcp", "tcp6"))


def listens_on(table: str, port: int) -> bool:
    """Whether the kernel's table of sockets has one that listens on this port."""
    rows = (line.split() for line in table.splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def clock_source() -> str:
    """What the kernel reads the time from."""
    return read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
