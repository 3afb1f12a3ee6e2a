"""From facts to findings: every check, the worst first."""

from collections.abc import Iterable
from dataclasses import replace

from mpi_spp.instruments.doctor import cores, gpus, launching, model, network, shared_memory, system, versions
from mpi_spp.instruments.doctor.facts import JobFacts
from mpi_spp.instruments.doctor.finding import Finding

_CHECKS = (launching, versions, system, cores, shared_memory, network, gpus, model)


def examine(job: JobFacts) -> list[Finding]:
    """All findings; those of one level are in the order of the checks."""
    found = [finding for module in _CHECKS for finding in module.check(job)]
    if not any(rank.torch_problem for rank in job.ranks):
        from mpi_spp.instruments.doctor import memory as room
        from mpi_spp.instruments.doctor import processor  # with torch

        found += [*processor.check(job), *room.check(job)]
    return sorted(_merged(found), key=lambda finding: finding.level, reverse=True)


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """What is the same of several hosts is one finding: clusters have many hosts, most of them alike."""
    found: dict[Finding, Finding] = {}
    for one in findings:
        same = replace(one, ranks=(), hosts=())
        known = found.get(same, same)
        ranks, hosts = sorted({*known.ranks, *one.ranks}), dict.fromkeys((*known.hosts, *one.hosts))
        found[same] = replace(one, ranks=tuple(ranks), hosts=tuple(hosts))
    return list(found.values())
