"""What one rank knows of itself and its host, as plain values, and all ranks together."""

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_spp.errors import UserError
from mpi_spp.instruments.doctor import machine
from mpi_spp.instruments.doctor.interfaces import Interface, Route, interfaces_here, routes_here
from mpi_spp.instruments.doctor.software import versions_here
from mpi_spp.launch.cma import cma_is_refused
from mpi_spp.launch.placement import local_numbers
from mpi_spp.system import cpu
from mpi_spp.system.limits import cpu_quota, memory_available

if TYPE_CHECKING:
    import torch

    from mpi_spp.model.config import ModelConfig

# What changes how MPI and its helpers behave.
_VARIABLES = ("OMPI_MCA_", "MPIR_CVAR_", "MPICH_", "I_MPI_", "FI_", "UCX_", "HWLOC_", "OMP_", "CUDA_VISIBLE_")


@dataclass(frozen=True)
class Gpu:
    """Of one rank's host, as torch numbers them. Bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Processor:
    """Of one host. `kernels`: the back ends that work for bfloat16; `failed`: native ones by why they do not."""

    name: str
    instruction_sets: tuple[str, ...]
    believed: str | None
    kernels: tuple[str, ...]
    compiler: str | None
    failed: Mapping[str, str]


@dataclass(frozen=True)
class ModelFiles:
    """Where this rank finds the model, or why it does not; `files`: a short digest of each, by name."""

    directory: str | None
    problem: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankFacts:
    """One rank. `cores` are physical ones, as are those of `numa_nodes`; None and empty: not known or not there."""

    rank: int = 0
    host: str
    versions: Mapping[str, str]
    cores: tuple[int, ...]
    host_cores: int
    cpu_quota: float | None = None  # of so many cores the ranks of this host have the time together; None: of all
    numa_nodes: tuple[tuple[int, ...], ...] = ()
    threads: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    cma_refused: bool = False
    shm_free: int | None = None  # bytes of /dev/shm, before MPI took its part
    shm_size: int | None = None
    memory_available: int = 0  # bytes, before torch was loaded
    is_wsl: bool = False
    x_port_is_open: bool = False
    clock_source: str = ""
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    has_gpu_driver: bool = False
    gpus: tuple[Gpu, ...] = ()
    cuda_aware: bool | None = None  # None: MPI was not asked
    torch_problem: str | None = None
    processor: Processor | None = None  # asked by one rank of each host
    model: ModelFiles | None = None


@dataclass(frozen=True)
class Link:
    """A way between two ranks: seconds of an empty message, bytes a second."""

    first: int
    second: int
    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class ClockOffset:
    """Seconds by which the clock of a rank's host is ahead of rank 0's, and how far that may be off."""

    rank: int
    ahead_s: float
    uncertainty_s: float


@dataclass(frozen=True)
class Wanted:
    """A run that is planned: the model as the ranks would hold it, and the tokens of prompt and answer."""

    name: str
    shape: "ModelConfig"
    dtype: "torch.dtype"
    kernels: str
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """All ranks; or only this one, where it runs alone or where the launcher and the library do not know each other."""

    ranks: tuple[RankFacts, ...]
    launched: int = 1  # processes that the launcher says it started
    launcher: str | None = None  # the one that `mpi-spp launch` would use; asked where no launcher started this process
    mpi_problem: str | None = None  # why there is no job, or would be none
    links: tuple[Link, ...] = ()
    clocks: tuple[ClockOffset, ...] = ()
    wanted: Wanted | None = None
    model_problem: str | None = None  # of config.json, where the files are there

    @property
    def hosts(self) -> dict[str, list[RankFacts]]:
        """The ranks of each host, in order."""
        found: dict[str, list[RankFacts]] = {}
        for rank in self.ranks:
            found.setdefault(rank.host, []).append(rank)
        return found

    @property
    def leaders(self) -> list[RankFacts]:
        """The first rank of each host."""
        return [ranks[0] for ranks in self.hosts.values()]


def where(ranks: Iterable[RankFacts]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Their numbers and their hosts, for a finding."""
    ranks = list(ranks)
    return tuple(rank.rank for rank in ranks), tuple(dict.fromkeys(rank.host for rank in ranks))


def by_value(ranks: Iterable[RankFacts], value: Callable[[RankFacts], object]) -> dict[object, list[RankFacts]]:
    """The ranks that have the same value of something."""
    found: dict[object, list[RankFacts]] = {}
    for rank in ranks:
        found.setdefault(value(rank), []).append(rank)
    return found


def facts_here(model: str | None) -> RankFacts:
    """All that this process can tell without another one. It must not have started MPI: it forks.

    `model`: what `--model` names, to be looked for on this host.
    """
    # Both first: MPI and torch take their part of them.
    (shm_free, shm_size), free = machine.shm_sizes() or (None, None), memory_available()
    gpus, torch_problem = _gpus()
    return RankFacts(
        host=socket.gethostname(),
        versions=versions_here(),
        cores=machine.cores_of(os.sched_getaffinity(0)),
        host_cores=len(machine.cores_of(machine.cpus_online())),
        cpu_quota=cpu_quota(),
        numa_nodes=tuple(machine.cores_of(cpus) for cpus in machine.numa_nodes()),
        variables={name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)},
        cma_refused=cma_is_refused(),
        shm_free=shm_free,
        shm_size=shm_size,
        memory_available=free,
        is_wsl=machine.is_wsl(),
        x_port_is_open=machine.x_port_is_open(),
        clock_source=machine.clock_source(),
        interfaces=interfaces_here(),
        routes=routes_here(),
        has_gpu_driver=Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists(),
        gpus=gpus,
        torch_problem=torch_problem,
        processor=None if torch_problem or (local_numbers(os.environ) or (0, 1))[0] else _processor(),
        model=None if model is None else _model_files(model),
    )


def _processor() -> Processor:
    """What computes here. The first time on a machine it takes seconds: the back ends are tried."""
    import torch

    from mpi_spp.kernels.backends import is_native
    from mpi_spp.kernels.choice import compiler_here, trials, working
    from mpi_spp.kernels.trial import WORKS
    from mpi_spp.model.loading.hub import cache_directory

    kept, dtype = cache_directory() / "kernels", torch.bfloat16
    names = working(dtype, torch.device("cpu"), kept)
    failed = {name: why for name, why in trials(dtype, kept).items() if is_native(name) and why != WORKS}
    sets = tuple(cpu.instruction_sets())
    return Processor(cpu.name(), sets, cpu.believed(), tuple(names), compiler_here(names, kept), failed)


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that torch sees, and why it cannot be used."""
    try:
        import torch

        numbers = range(torch.cuda.device_count())
        memory = [torch.cuda.mem_get_info(number) for number in numbers]  # free, all
        return tuple(
            Gpu(torch.cuda.get_device_name(number), memory[number][1], memory[number][0]) for number in numbers
        ), None
    except (ImportError, OSError, RuntimeError) as error:
        return (), next(iter(str(error).splitlines()), type(error).__name__)


def _model_files(model: str) -> ModelFiles:
    from mpi_spp.model.loading.fingerprint import digests
    from mpi_spp.model.loading.locate import locate

    try:
        directory = locate(model, download=False)
        return ModelFiles(str(directory), None, digests(directory))
    except UserError as error:
        return ModelFiles(None, str(error))
