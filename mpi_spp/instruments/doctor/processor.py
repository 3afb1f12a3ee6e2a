"""What computes on each host: its processor, and the kernels that work there."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, Processor, where
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.kernels.backends import WIDENING, is_native
from mpi_spp.system.cpu import shortened

_ADVICE = "install a C compiler (gcc), or the package ziglang, which holds one (pip install ziglang), or name one in CC"


def check(job: JobFacts) -> Iterator[Finding]:
    """Name processor and kernels of each host, and say where bfloat16 is slower than it could be."""
    for ranks in job.hosts.values():
        for rank in ranks:
            if rank.processor is not None:
                yield Finding("cpu", *_judged(rank.processor), *where(ranks))


def _judged(processor: Processor) -> tuple[Level, str, str]:
    believed = f", taken for {processor.believed} by MPI_SPP_CPU" if processor.believed else ""
    told = f"{processor.name} ({shortened(processor.instruction_sets)}{believed})"
    native = [name for name in processor.kernels if is_native(name)]
    if native:
        return Level.OK, f"{told}; kernels {native[0]} by {processor.compiler}", ""
    if processor.failed:
        name, reason = next(iter(processor.failed.items()))
        return Level.WARNING, f"{told}; no {name} kernels: {reason}", _ADVICE
    if set(processor.kernels) <= set(WIDENING):
        told += "; no instructions for bfloat16: weights of 16 bits and less are computed with in float32"
        return Level.NOTE, told, ""
    return Level.OK, f"{told}; kernels {', '.join(processor.kernels)}", ""
