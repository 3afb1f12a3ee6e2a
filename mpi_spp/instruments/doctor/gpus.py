"""GPUs: whether torch and MPI can use them, and whether the ranks have one each."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.system.units import counted, show_bytes


def check(job: JobFacts) -> Iterator[Finding]:
    """For each host that has one."""
    for ranks in job.hosts.values():
        first, about = ranks[0], where(ranks)
        if not first.gpus:
            if first.has_gpu_driver:
                told = f"there is a GPU driver, but torch {first.versions['torch']} sees no GPU"
                advice = "install torch for CUDA, and look at CUDA_VISIBLE_DEVICES"
                yield Finding("gpu", Level.WARNING, told, advice, *about)
            continue
        listed = ", ".join(
            f"{number}: {gpu.name}, {show_bytes(gpu.free)} of {show_bytes(gpu.memory)} free"
            for number, gpu in enumerate(first.gpus)
        )
        yield Finding("gpu", Level.OK, f"GPU {listed}", "", *about)
        if len(ranks) > len(first.gpus):
            told = f"{counted(len(ranks), 'rank')} share {counted(len(first.gpus), 'GPU')}"
            yield Finding("gpu", Level.WARNING, told, "start one rank for each GPU", *about)
        if first.cuda_aware is not None:
            yield Finding("cuda-aware", *_awareness(first.cuda_aware), *about)


def _awareness(is_aware: bool) -> tuple[Level, str, str]:
    if is_aware:
        return Level.OK, "MPI reads and writes GPU memory itself", ""
    told = "MPI does not say that it reads GPU memory: messages go through pinned host memory"
    return Level.NOTE, told, "use a CUDA-aware MPI; if yours is one that does not say so, give --cuda-aware yes"
