"""The same software on all ranks."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, by_value, where
from mpi_spp.instruments.doctor.finding import Finding, Level, failure_of
from mpi_spp.instruments.doctor.software import NOT_THERE

_MUST_BE_EQUAL = ("MPI", "mpi-spp")  # others would speak differently; different libraries round differently
_SAME = "install the same versions on every host, or share one environment over the network"


def check(job: JobFacts) -> Iterator[Finding]:
    """What is missing or differs, else all versions in one finding."""
    differing = False
    for name in job.ranks[0].versions:
        for finding in _of_one(job, name):
            differing = True
            yield finding
    for problem, ranks in by_value(job.ranks, lambda rank: rank.torch_problem).items():
        if problem is not None:
            differing = True
            yield failure_of("torch", f"torch cannot be used: {problem}", *where(ranks), do="install torch again")
    if not differing:
        versions = ", ".join(f"{name} {version}" for name, version in job.ranks[0].versions.items())
        yield Finding("versions", Level.OK, versions, "", *where(job.ranks))


def _of_one(job: JobFacts, name: str) -> Iterator[Finding]:
    found = by_value(job.ranks, lambda rank: rank.versions.get(name, NOT_THERE))
    missing = found.pop(NOT_THERE, [])
    if missing:
        yield Finding(
            "versions", Level.FAILURE, f"{name} is not installed, or cannot be loaded", _SAME, *where(missing)
        )
    if len(found) > 1:
        told = "; ".join(f"{version} on {', '.join(where(ranks)[1])}" for version, ranks in found.items())
        level = Level.FAILURE if name in _MUST_BE_EQUAL else Level.WARNING
        yield Finding("versions", level, f"{name} differs: {told}", _SAME, *where(job.ranks))
