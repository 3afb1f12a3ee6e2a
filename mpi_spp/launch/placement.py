"""Gives a rank its cores, then becomes its program: `mpi_spp.launch.placement [--threads N] COMMAND...` (see start.py)

The launchers' own binding is switched off. Measured: Open MPI 4 and 5 bind outside the cores that `taskset` leaves,
Open MPI 5 refuses a rank whose cores lie in two packages, and none of them leaves no core idle when the ranks do
not divide the cores. Here every host divides its own cores, so hosts may differ.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mpi_spp.parallel.partition import split_evenly
from mpi_spp.system.limits import cpu_quota, within_quota

# Rank on this host, ranks on this host: Open MPI; MPICH and Intel MPI; MVAPICH.
_LOCAL_NAMES = (
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
)
# A waiting rank must not take the core from the one it waits for. Open MPI takes slots for cores and otherwise spins.
# MPICH yields in a way that still takes half a core; this makes it sleep. Intel MPI needs nothing.
WHEN_SHARING_CORES = {"OMPI_MCA_mpi_yield_when_idle": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}


@dataclass(frozen=True)
class Place:
    """Where a rank computes. `cores` is empty when it is left unbound, because threads outnumber cores.

    `shares_cores`: it gets its time in turns with others, since there are too few cores or too small a quota.
    """

    cores: tuple[int, ...]
    threads: int
    shares_cores: bool


def place(
    cores: list[int], local_rank: int, local_size: int, threads: int | None = None, quota: float | None = None
) -> Place:
    """The part of its host's cores for one rank: all cores go to a rank, or `threads` to each.

    The first ranks get one more when the cores do not divide, as they get one more layer. With a quota of CPU time
    (see limits.py) they get as many cores, but no more threads than there is time for.
    """
    wanted = local_size * (threads or 1)
    if wanted > len(cores):
        return Place((), threads or 1, True)
    usable = cores[:wanted] if threads else cores
    own = split_evenly(len(usable), local_size)[local_rank]
    waits = quota is not None and wanted > quota
    return Place(tuple(usable[index] for index in own), threads or within_quota(len(own), quota, local_size), waits)


def one_cpu_per_core(cpus: Iterable[int], fact: Callable[[int, str], str]) -> list[int]:
    """The first hardware thread of every core, neighbours of one package together.

    Two threads of arithmetic on one core are slower than one. `fact(cpu, name)` is what the kernel tells of a CPU,
    or an empty string.
    """
    first: dict[str, int] = {}
    for cpu in sorted(cpus):
        first.setdefault(fact(cpu, "thread_siblings_list") or str(cpu), cpu)
    return sorted(first.values(), key=lambda cpu: (int(fact(cpu, "physical_package_id") or 0), cpu))


def cores_here() -> list[int]:
    """One CPU of every core that this process may use."""
    return one_cpu_per_core(os.sched_getaffinity(0), kernel_fact)


def num_cores_here() -> int:
    """How many cores this process may keep busy: those it may use, within a quota of CPU time."""
    return within_quota(len(cores_here()), cpu_quota(), 1)


def local_numbers(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """This rank's number on its host and how many ranks the host has; None when the launcher does not tell."""
    for rank, size in _LOCAL_NAMES:
        told = [environment.get(name, "") for name in (rank, size)]
        if all(text.isdecimal() and len(text) < 10 for text in told) and int(told[0]) < int(told[1]):
            return int(told[0]), int(told[1])
    return None


def kernel_fact(cpu: int, name: str) -> str:
    """What Linux tells of a CPU's place in the machine; empty when it does not."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/{name}").read_text().strip()
    except OSError:
        return ""


def _take(where: Place) -> None:
    """Bind this process, and tell the libraries that the program will load."""
    if where.cores:
        os.sched_setaffinity(0, where.cores)
    os.environ["OMP_NUM_THREADS"] = str(where.threads)
    if where.shares_cores:
        os.environ.update(WHEN_SHARING_CORES)


def main(arguments: list[str]) -> NoReturn:
    """Take the place of this rank and become the command."""
    threads = None
    if arguments[0] == "--threads":
        threads, arguments = int(arguments[1]), arguments[2:]
    numbers = local_numbers(os.environ)
    if numbers is not None:
        _take(place(cores_here(), *numbers, threads, cpu_quota()))
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.exit(f"mpi-spp: error: {arguments[0]}: cannot be started ({error.strerror}) on {os.uname().nodename}")


if __name__ == "__main__":
    main(sys.argv[1:])
