"""Cores, NUMA nodes and threads: who computes where, and whether ranks take one another's core."""

from collections.abc import Iterator, Sequence

from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.system.units import counted

_LAUNCH = "start with `mpi-spp launch` without --threads, which divides the cores of each host"


def check(job: JobFacts) -> Iterator[Finding]:
    """For each host: ranks, threads and cores; what is oversubscribed, bound badly, or idle."""
    for ranks in job.hosts.values():
        used = _cores(ranks)
        yield _overview(ranks, used)
        crowded, quota = [rank for rank in ranks if _is_crowded(rank, ranks)], _quota(ranks)
        if sum(rank.threads for rank in ranks) > quota:
            yield _over_quota(ranks, quota)
        elif crowded:
            yield _oversubscribed(crowded, ranks)
        elif job.launched > 1 and len(used) < min(ranks[0].host_cores, quota):
            idle = ranks[0].host_cores - len(used)
            told = f"{idle} of {ranks[0].host_cores} cores are no rank's"
            yield Finding("idle-cores", Level.NOTE, told, f"start more ranks or threads, or {_LAUNCH}", *where(ranks))
        yield from _numa(ranks)


def _overview(ranks: Sequence[RankFacts], used: set[int]) -> Finding:
    threads = sorted({rank.threads for rank in ranks})
    each = counted(threads[0], "thread") if len(threads) == 1 else f"{threads[0]} to {threads[-1]} threads"
    told = (
        f"{counted(len(ranks), 'rank')} of {each} on {len(used)} of {counted(ranks[0].host_cores, 'core')},"
        f" {counted(max(1, len(ranks[0].numa_nodes)), 'NUMA node')}"
    )
    if _quota(ranks) < ranks[0].host_cores:
        told += f", with {_time(_quota(ranks))}"
    return Finding("cores", Level.OK, told, "", *where(ranks))


def _oversubscribed(crowded: Sequence[RankFacts], ranks: Sequence[RankFacts]) -> Finding:
    """Too many threads for the whole host, or a bad binding on one that has cores to spare."""
    cores, threads = _cores(crowded), sum(rank.threads for rank in crowded)
    told = f"{counted(len(crowded), 'rank')} with {counted(threads, 'thread')} together"
    told += f" share {counted(len(cores), 'core')}"
    everywhere = sum(rank.threads for rank in ranks)
    if everywhere <= ranks[0].host_cores:
        told += f", though the host has {ranks[0].host_cores}: bound to {_listed(sorted(cores))}"
        return Finding("binding", Level.WARNING, told, _LAUNCH, *where(crowded))
    advice = f"at most {counted(max(1, len(cores) // len(crowded)), 'thread')} a rank"
    if len(crowded) > len(cores):
        advice += f" and {counted(len(cores), 'rank')} on this host; more only wait for one another"
    return Finding("oversubscribed", Level.WARNING, told, advice, *where(crowded))


def _over_quota(ranks: Sequence[RankFacts], quota: float) -> Finding:
    threads = sum(rank.threads for rank in ranks)
    told = f"{counted(len(ranks), 'rank')} with {counted(threads, 'thread')} together have {_time(quota)}"
    advice = f"at most {counted(max(1, int(quota)), 'rank')} on this host, --threads 1; or a larger quota"
    if len(ranks) <= quota:
        advice = f"--threads {int(quota / len(ranks))}; or a larger quota"
    return Finding("cpu-quota", Level.WARNING, told, f"{advice} (docker --cpus, a limit of Kubernetes)", *where(ranks))


def _quota(ranks: Sequence[RankFacts]) -> float:
    """Of how many cores the ranks of a host have the time."""
    return min((rank.cpu_quota for rank in ranks if rank.cpu_quota is not None), default=float("inf"))


def _time(quota: float) -> str:
    return "a quota of 1 core's time" if quota == 1 else f"a quota of {quota:g} cores' time"


def _is_crowded(rank: RankFacts, ranks: Sequence[RankFacts]) -> bool:
    """Whether this rank's threads, and those of the ranks that may run on its cores, outnumber the cores."""
    sharers = [other for other in ranks if set(other.cores) & set(rank.cores)]
    return sum(other.threads for other in sharers) > len(_cores(sharers))


def _numa(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    """A rank whose cores lie in several nodes reads half of its weights from the other node's memory."""
    spread = [rank for rank in ranks if sum(bool(set(node) & set(rank.cores)) for node in rank.numa_nodes) > 1]
    if spread:
        nodes = len(ranks[0].numa_nodes)
        told = f"each computes on cores of several of the {nodes} NUMA nodes, and reads from far memory"
        yield Finding("numa", Level.NOTE, told, f"start {nodes} ranks, or a multiple, on this host", *where(spread))


def _cores(ranks: Sequence[RankFacts]) -> set[int]:
    return {core for rank in ranks for core in rank.cores}


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"core {shown}" if len(numbers) == 1 else f"cores {shown}{', ...' if len(numbers) > 8 else ''}"
