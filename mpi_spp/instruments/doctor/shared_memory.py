"""How the ranks of one host reach each other's memory: /dev/shm and cross-memory attach."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.system.units import counted, show_bytes

T = TypeVar("T")

# What a rank's own segment in /dev/shm takes, read there on x86-64: Open MPI 4 and 5 (btl_sm_segment_size and a
# twentieth that it wants to see besides), MPICH 5. Intel MPI takes none. A library that is not known is not judged.
_SEGMENT_BYTES = {"Open MPI": (16 << 20) * 21 // 20, "MPICH": 1_060_000}
_ENLARGE = "enlarge it: mount -o remount,size=2G /dev/shm, or docker run --shm-size=2g"
# By library: what makes it copy through shared memory instead, as `mpi-spp launch` passes it.
_NO_CMA = {
    "Open MPI v4": ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    "Open MPI": ("OMPI_MCA_smsc", "^cma"),
    "MPICH": ("MPIR_CVAR_CH4_CMA_ENABLE", "0"),
}


def check(job: JobFacts) -> Iterator[Finding]:
    """For each host: room in /dev/shm, and whether a rank may read another's memory."""
    for ranks in job.hosts.values():
        yield _segments(ranks)
        yield _cma(ranks)


def room(ranks: Sequence[RankFacts]) -> int | None:
    """Bytes that were free in /dev/shm before MPI took its part; None: there is none."""
    return max((rank.shm_free for rank in ranks if rank.shm_free is not None), default=None)


def segments(ranks: Sequence[RankFacts]) -> int | None:
    """Bytes that MPI takes of it for these ranks; None: not known."""
    each = _of_library(_SEGMENT_BYTES, ranks[0])
    return None if each is None else each * len(ranks)


def is_fatal(rank: RankFacts, local_size: int) -> bool:
    """Whether MPI would end in a bus error when it starts so many ranks like this one on its host.

    The whole of /dev/shm is looked at: of what is free MPI may have taken a part for these very ranks.
    """
    need = segments([rank] * local_size)
    return rank.versions["MPI"].startswith("MPICH") and need is not None and (rank.shm_size or 0) < need


def _segments(ranks: Sequence[RankFacts]) -> Finding:
    library, free, need = ranks[0].versions["MPI"], room(ranks), segments(ranks)
    if free is None:
        return Finding("shm", Level.WARNING, "there is no /dev/shm", "mount a tmpfs there", *where(ranks))
    if need is None:
        return Finding("shm", Level.OK, f"{show_bytes(free)} free in /dev/shm", "", *where(ranks))
    told = f"{show_bytes(free)} free in /dev/shm, {library} takes {show_bytes(need)} for {counted(len(ranks), 'rank')}"
    if free >= need:
        return Finding("shm", Level.OK, told, "", *where(ranks))
    if library.startswith("Open MPI"):
        told += "; ranks of this host then talk over the network, slower"
        return Finding("shm", Level.WARNING, told, _ENLARGE, *where(ranks))
    return Finding("shm", Level.FAILURE, told, _ENLARGE, *where(ranks))


def _cma(ranks: Sequence[RankFacts]) -> Finding:
    first, library = ranks[0], ranks[0].versions["MPI"]
    if not first.cma_refused:
        return Finding("cma", Level.OK, "a rank may read another's memory", "", *where(ranks))
    told = "a rank may not read another's memory (cross-memory attach is refused)"
    name, value = _of_library(_NO_CMA, first) or ("", "")
    if not name or first.variables.get(name) == value:
        return Finding("cma", Level.NOTE, f"{told}: large messages are copied twice", "", *where(ranks))
    level = Level.FAILURE if library.startswith("MPICH") else Level.WARNING
    return Finding("cma", level, told, f"start with `mpi-spp launch`, or set {name}={value}", *where(ranks))


def _of_library(table: Mapping[str, T], rank: RankFacts) -> T | None:
    return next((value for name, value in table.items() if rank.versions["MPI"].startswith(name)), None)
