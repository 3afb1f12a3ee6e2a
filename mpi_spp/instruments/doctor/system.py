"""Systems on which MPI needs a hint: WSL, and whatever hwloc takes for an X server."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level

_SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")
_HANGS = "mpirun hangs in hwloc's GL plugin"
_EXPORT = "start with `mpi-spp launch`, or export HWLOC_COMPONENTS=-gl (on all ranks: mpirun -x HWLOC_COMPONENTS)"


def check(job: JobFacts) -> Iterator[Finding]:
    """For each host: WSL and port 6006 against HWLOC_COMPONENTS, and the source of its time."""
    for ranks in job.hosts.values():
        first = ranks[0]
        reason = "this is WSL" if first.is_wsl else "a program listens on port 6006, where an X server could be"
        if first.is_wsl or first.x_port_is_open:
            if _is_without_gl(first):
                yield Finding("hwloc", Level.OK, f"{reason}; HWLOC_COMPONENTS leaves GL out", "", *where(ranks))
            else:
                yield Finding("hwloc", Level.WARNING, f"{reason}: {_HANGS}", _EXPORT, *where(ranks))
        if first.clock_source in _SLOW_CLOCKS:
            told = f"the time comes from {first.clock_source}, at a microsecond or more for each look at it"
            advice = "boot with clocksource=tsc where that is stable"
            yield Finding("clock-source", Level.NOTE, told, advice, *where(ranks))


def _is_without_gl(rank: RankFacts) -> bool:
    return "-gl" in rank.variables.get("HWLOC_COMPONENTS", "").split(",")
