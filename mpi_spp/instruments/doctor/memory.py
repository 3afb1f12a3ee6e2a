"""Whether a planned run fits into the memory of hosts and GPUs, by the forecasts of `mpi-spp plan`."""

from collections.abc import Iterator
from dataclasses import replace

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.forecast.choice import nearest
from mpi_spp.forecast.memory import RankMemory, cache_bytes, host_bytes, memory_of_ranks, require_positions
from mpi_spp.forecast.scenario import Scenario, lay_out
from mpi_spp.forecast.speeds import assumed
from mpi_spp.forecast.sync import moved_by
from mpi_spp.instruments.doctor import shared_memory
from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts, Wanted, where
from mpi_spp.instruments.doctor.finding import Finding, Level, failure_of
from mpi_spp.parallel.mesh import mesh_of
from mpi_spp.system.units import show_bytes


def check(job: JobFacts) -> Iterator[Finding]:
    """Each host's free memory, or each GPU's, against the ranks there; and a cache in shared memory."""
    if job.wanted is None:
        for ranks in job.hosts.values():
            told = f"{show_bytes(_available(ranks))} of memory are available"
            yield Finding("memory", Level.OK, told, "give --model to see whether it fits", *where(ranks))
        return
    scenario = _scenario(job, job.wanted)
    try:
        require_positions(scenario)
        layout = lay_out(scenario)
    except UserError as error:
        yield failure_of("memory", str(error), *where(job.ranks))
        return
    memory = memory_of_ranks(scenario, layout, moved_by(scenario, layout))
    needs = host_bytes(memory, scenario.hosts)
    for host, ranks in job.hosts.items():
        if ranks[0].gpus:
            yield from _gpus(ranks, memory, job.wanted)
        else:
            yield _host(ranks, needs[host], scenario)
    if len(job.ranks) > 1:
        yield from _shared_cache(job, scenario)


def _host(ranks: list[RankFacts], need: int, scenario: Scenario) -> Finding:
    free = _available(ranks)
    told = f"{_run(scenario)} needs {show_bytes(need)} here, {show_bytes(free)} are available"
    if need <= free:
        return Finding("memory", Level.OK, told, "", *where(ranks))
    return Finding("memory", Level.FAILURE, told, nearest(scenario), *where(ranks))


def _gpus(ranks: list[RankFacts], memory: list[RankMemory], wanted: Wanted) -> Iterator[Finding]:
    """Without ids the ranks of a host go round its GPUs."""
    gpus = ranks[0].gpus
    for number, gpu in enumerate(gpus[: len(ranks)]):
        mine = ranks[number :: len(gpus)]
        need = sum(memory[rank.rank].total - memory[rank.rank].program for rank in mine)
        told = f"{wanted.name} needs {show_bytes(need)} of GPU {number}, {show_bytes(gpu.free)} are free"
        level = Level.OK if need <= gpu.free else Level.FAILURE
        advice = "" if level is Level.OK else "start more ranks, or --decode tensor, or --quantize"
        yield Finding("gpu-memory", level, told, advice, *where(mine))


def _shared_cache(job: JobFacts, scenario: Scenario) -> Iterator[Finding]:
    """One cache for all ranks of a host lies in /dev/shm, beside MPI's own segments."""
    config = replace(scenario.config, sync_strategy="shared")
    scenario = replace(scenario, config=config)
    cache = cache_bytes(scenario, lay_out(scenario), 0)
    for ranks in job.hosts.values():
        free, taken = shared_memory.room(ranks) or 0, shared_memory.segments(ranks) or 0
        if len(ranks) > 1 and not ranks[0].gpus and free - taken < cache:
            told = (
                f"--sync-strategy shared needs {show_bytes(cache)} of /dev/shm,"
                f" {show_bytes(max(0, free - taken))} are left beside MPI's segments"
            )
            advice = "enlarge /dev/shm (mount -o remount,size=...), or leave --sync-strategy at auto"
            yield Finding("shm-cache", Level.WARNING, told, advice, *where(ranks))


def _scenario(job: JobFacts, wanted: Wanted) -> Scenario:
    """With the default strategies; speeds are of no weight here."""
    hosts = [rank.host for rank in job.ranks]
    return Scenario(
        RunConfig(model=wanted.name),
        wanted.shape,
        mesh_of(None, len(hosts)),
        hosts,
        wanted.dtype,
        wanted.kernels,
        wanted.prompt_tokens,
        wanted.new_tokens,
        assumed(wanted.shape, hosts),
        {host: _available(ranks) for host, ranks in job.hosts.items()},
    )


def _run(scenario: Scenario) -> str:
    tokens = f"{scenario.prompt_tokens} + {scenario.new_tokens} tokens"
    return f"{scenario.config.model} with the default strategies and {tokens}"


def _available(ranks: list[RankFacts]) -> int:
    """Bytes; what this command itself takes is not counted: the rank that looked first saw the most."""
    return max(rank.memory_available for rank in ranks)
