"""All ranks' facts in one value, the same on each of them: asked, exchanged and measured."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_spp.comm.environment import launched_size
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.instruments.doctor.facts import ClockOffset, JobFacts, Link, RankFacts, Wanted, facts_here
from mpi_spp.instruments.doctor.shared_memory import is_fatal
from mpi_spp.launch.launcher import find_launcher, require_same_mpi
from mpi_spp.launch.placement import local_numbers
from mpi_spp.system.limits import within_quota

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import World
    from mpi_spp.model.config import ModelConfig


@dataclass(frozen=True)
class Question:
    """What a run is to be: its model, if one is named, threads of a rank, and tokens of prompt and answer.

    `timeout`: seconds after which a wait in vain ends the job; 0: no limit.
    """

    model: str | None
    threads: int | None
    prompt_tokens: int
    new_tokens: int
    timeout: int


def ask(question: Question) -> tuple[JobFacts, "World | None"]:
    """The facts of all ranks, and the job that they are in; None: this process is alone. Collective."""
    here = facts_here(question.model)
    _, local_size = local_numbers(os.environ) or (0, 1)
    here = replace(here, threads=question.threads or _threads(here, local_size))
    if launched_size() == 1:
        return _with_model(_with_launcher(here), question, None), None
    if is_fatal(here, local_size):
        ranks = tuple(replace(here, rank=number) for number in range(local_size))
        problem = "MPI was not started: it would end in a bus error for want of /dev/shm; enlarge that"
        return _with_model(JobFacts(ranks=ranks, launched=launched_size(), mpi_problem=problem), question, None), None
    try:
        from mpi_spp.comm.world import the_world

        world = the_world(question.timeout)
    except UserError as error:
        return _with_model(
            JobFacts(ranks=(here,), launched=launched_size(), mpi_problem=str(error)), question, None
        ), None
    return _of_job(here, question, world), world


def _threads(here: RankFacts, local_size: int) -> int:
    return within_quota(max(1, len(here.cores) // local_size), here.cpu_quota, local_size)


def _with_launcher(here: RankFacts) -> JobFacts:
    """MPI is not started here: where that fails, the rest should still be told."""
    try:
        launcher = find_launcher()
        require_same_mpi(launcher)
    except UserError as error:
        return JobFacts(ranks=(here,), mpi_problem=str(error))
    return JobFacts(ranks=(here,), launcher=f"{launcher.command[0]} ({launcher.vendor} {launcher.major})")


def _of_job(here: RankFacts, question: Question, world: "World") -> JobFacts:
    here = replace(
        here,
        rank=world.rank,
        threads=question.threads or world.default_threads(),
        cuda_aware=_cuda_aware(world) if here.gpus else None,
    )
    job = _with_model(JobFacts(ranks=tuple(world.gather(here)), launched=launched_size()), question, world)
    if any(rank.torch_problem for rank in job.ranks):
        return job
    links, clocks = _measured(job, world)
    return replace(job, links=links, clocks=clocks)


def _cuda_aware(world: "World") -> bool:
    from mpi_spp.comm.cuda import is_cuda_aware

    return is_cuda_aware("auto", world.mpi_comm)


def _with_model(job: JobFacts, question: Question, world: "World | None") -> JobFacts:
    """Read the shape on the first rank that has the model, then let every rank hold its files against it."""
    finders = [rank for rank in job.ranks if rank.model is not None and rank.model.directory is not None]
    if not finders or any(rank.torch_problem for rank in job.ranks):
        return job
    reader, own_number = finders[0], 0 if world is None else world.rank
    told: Wanted | str | None = None
    if reader.rank == own_number:
        try:
            told = _wanted(reader, question)
        except UserError as error:
            told = str(error)
    told = told if world is None else world.gather(told)[reader.rank]
    if not isinstance(told, Wanted):
        return replace(job, model_problem=told)
    own = next(rank for rank in job.ranks if rank.rank == own_number)
    checked = _checked(own, told.shape)
    ranks = (checked,) if world is None else tuple(world.gather(checked))
    return replace(job, ranks=ranks, wanted=told)


def _wanted(rank: RankFacts, question: Question) -> Wanted:
    """The model as this rank would hold it."""
    from transformers.utils import logging

    from mpi_spp.forecast.likely import likely_dtype, likely_kernels
    from mpi_spp.model.config import read_config
    from mpi_spp.model.loading.hub import cache_directory

    assert rank.model is not None and rank.model.directory is not None and question.model is not None
    logging.set_verbosity_error()
    directory, config = Path(rank.model.directory), RunConfig(model=question.model)
    shape = read_config(directory)
    dtype = likely_dtype(config, directory, shape)
    kernels = likely_kernels(config, shape, dtype, rank.threads, cache_directory() / "kernels")
    return Wanted(question.model, shape, dtype, kernels, question.prompt_tokens, question.new_tokens)


def _checked(rank: RankFacts, shape: "ModelConfig") -> RankFacts:
    """With what is wrong with the weights: from the files' headers alone, as a run does it."""
    from mpi_spp.model.loading.checkpoint import Checkpoint
    from mpi_spp.model.loading.weights import require_weights

    if rank.model is None or rank.model.directory is None:
        return rank
    try:
        require_weights(Checkpoint(Path(rank.model.directory)), shape)
    except UserError as error:
        return replace(rank, model=replace(rank.model, problem=str(error)))
    return rank


def _measured(job: JobFacts, world: "World") -> tuple[tuple[Link, ...], tuple[ClockOffset, ...]]:
    """Between the hosts all pairs, inside each host one; clocks against rank 0's host. Collective."""
    from mpi_spp.comm.communicator import Communicator

    comm = Communicator(world.mpi_comm, shares_core=world.some_share_cores(job.ranks[world.rank].threads))
    inside = [(ranks[0].rank, ranks[1].rank) for ranks in job.hosts.values() if len(ranks) > 1]
    leaders = [leader.rank for leader in job.leaders]
    links = [link for pairs in [inside, *rounds_of_pairs(leaders)] for link in _links(comm, pairs)]
    found = tuple(link for of_rank in world.gather(links) for link in of_rank)
    return found, _clocks(comm, world, leaders)


def _clocks(comm: "Communicator", world: "World", leaders: Sequence[int]) -> tuple[ClockOffset, ...]:
    """Of the time of day, by which logs are written; what is compared is a steadier clock. Collective."""
    from mpi_spp.comm.clock import compare_clocks

    offsets = compare_clocks(comm)
    days = world.gather(time.time_ns() - time.perf_counter_ns())
    return tuple(
        ClockOffset(rank, (offsets[rank].ahead_ns + days[rank] - days[0]) * 1e-9, offsets[rank].round_trip_ns / 2e9)
        for rank in leaders[1:]
    )


def rounds_of_pairs(ranks: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Every two of them once, in rounds in which nobody comes twice: as in a tournament, one sits still."""
    seats: list[int | None] = [*ranks, *([None] if len(ranks) % 2 else [])]
    rounds = []
    for _ in range(len(seats) - 1):
        across = zip(seats[: len(seats) // 2], reversed(seats), strict=False)
        rounds.append([(min(a, b), max(a, b)) for a, b in across if a is not None and b is not None])
        seats.insert(1, seats.pop())
    return rounds


def _links(comm: "Communicator", pairs: Sequence[tuple[int, int]]) -> list[Link]:
    """What this rank has measured as the first of a pair; the pairs of a round do not meet."""
    from mpi_spp.comm.link import measure_pair

    found = []
    for first, second in pairs:
        if comm.rank in (first, second):
            measured = measure_pair(comm, first, second)
            found += [Link(first, second, *measured)] if comm.rank == first else []
    return found
