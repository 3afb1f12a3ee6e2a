"""What Linux tells of a machine: cores, memory, clocks. What it does not tell is empty, never an error."""

import os
from collections.abc import Iterable
from pathlib import Path

from mpi_spp.launch.placement import kernel_fact
from mpi_spp.system.limits import read

_NODES = Path("/sys/devices/system/node")
_X_PORT = 6006  # where hwloc looks for an X server, see docs/clusters.md


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
