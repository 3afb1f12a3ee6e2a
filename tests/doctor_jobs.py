"""Facts of machines that are not here, and what is found in them."""

from dataclasses import replace
from typing import Any

from mpi_spp.instruments.doctor.examine import examine
from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.instruments.doctor.interfaces import Interface

OPEN_MPI, MPICH = "Open MPI v5.0.11", "MPICH Version: 5.0.2"
VERSIONS = {"Python": "3.11.2", "MPI": OPEN_MPI, "torch": "2.13.0+cpu", "mpi-spp": "0.1 (source abc)"}
GIB = 1 << 30


def rank_on(host: str = "node1", **facts: Any) -> RankFacts:
    """A rank to which nothing is wrong; `mpi`: another library."""
    versions = VERSIONS | {"MPI": facts.pop("mpi", OPEN_MPI)}
    usual = {"versions": versions, "cores": (0, 1, 2, 3), "host_cores": 4, "shm_free": GIB, "memory_available": 8 * GIB}
    return RankFacts(host=host, **(usual | facts))


def job_of(*ranks: RankFacts, **facts: Any) -> JobFacts:
    """One job, whose ranks are numbered here."""
    numbered = tuple(replace(rank, rank=number) for number, rank in enumerate(ranks))
    return JobFacts(ranks=numbered, **({"launched": len(ranks)} | facts))


def found(job: JobFacts, id: str) -> list[Finding]:
    return [finding for finding in examine(job) if finding.id == id]


def the(job: JobFacts, id: str, *about: str) -> Finding:
    """The only finding of this id, whose text speaks of all that."""
    (finding,) = found(job, id)
    assert all(part in f"{finding.what} {finding.do}" for part in about), finding
    assert (finding.level in (Level.WARNING, Level.FAILURE)) <= bool(finding.do), f"no advice: {finding}"
    return finding


def is_well(job: JobFacts) -> bool:
    return all(finding.level is Level.OK for finding in examine(job))


def eth(number: int, name: str = "eth0", mbit: int | None = 1000, network: str = "10.0.0") -> Interface:
    return Interface(name, f"{network}.{number}/24", mbit)
