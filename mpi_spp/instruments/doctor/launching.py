"""Whether launcher and MPI library belong together."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level, failure_of
from mpi_spp.system.units import counted


def check(job: JobFacts) -> Iterator[Finding]:
    """A launcher and a library of different MPIs give as many jobs of one rank, or none."""
    about = where(job.ranks)
    if job.mpi_problem is not None:
        yield failure_of("launcher", job.mpi_problem, *about, do="see docs/clusters.md")
        if job.launched > 1:
            told = f"only rank 0's host could be looked at, since the {job.launched} processes do not know one another"
            yield Finding("hosts", Level.NOTE, told, "mend the launcher, then ask again", *about)
    elif job.launched > 1:
        told = f"all {job.launched} processes are ranks of one job, on {counted(len(job.hosts), 'host')}"
        yield Finding("launcher", Level.OK, told, "", *about)
    elif job.launcher is not None:
        told = f"{job.launcher} belongs to {job.ranks[0].versions['MPI']}"
        yield Finding("launcher", Level.OK, told, "mpi-spp launch -np 3 -- doctor looks at more ranks", *about)
