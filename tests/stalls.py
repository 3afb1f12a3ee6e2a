"""Ranks that wait for the last one, which has stopped: `mpirun -np N python tests/stalls.py KIND TIMEOUT MARKER`.

`MARKER`, a path of which nothing is there, tells the processes of one test from all others.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.environment import launched_rank, launched_size
from mpi_spp.comm.life import works
from mpi_spp.comm.mailbox import Mailbox
from mpi_spp.comm.world import World, leave, the_world
from mpi_spp.sync.ring import exchange

Wait = Callable[[], object]
LARGE = 1 << 20  # numbers: more than any library sends ahead


def ring(comm: Communicator) -> None:
    """The sync strategy, with parts of one number."""
    parts = torch.zeros(comm.size, 1)
    for request in exchange(comm, SimpleNamespace(part=lambda rank: parts[rank], tag=7)):
        comm.wait(request)


def memory(comm: Communicator, world: World) -> Wait:
    """The hosts are known, so what is waited for is the window."""
    hosts = comm.hosts(world.host)
    return lambda: hosts.memory(8, "a test")


def free(comm: Communicator, world: World) -> Wait:
    shared = comm.hosts(world.host).memory(8, "a test")
    return shared.free


def waits_of(world: World) -> dict[str, Callable[[], Wait]]:
    """By kind: what all ranks prepare together, and then what those wait in who have not stopped."""
    comm, spinning = (Communicator(world.mpi_comm.Dup(), shares_core=shares, name="test") for shares in (True, False))
    last, row, rows = world.size - 1, torch.zeros(1), torch.zeros(world.size, 1)
    ones, large = [1] * world.size, torch.zeros(LARGE)
    return {
        "send": lambda: lambda: comm.wait(comm.isend(large, last, 7)),
        "receive": lambda: lambda: comm.wait(comm.irecv(large, last, 7)),
        "allgather": lambda: lambda: comm.wait(comm.iallgather(rows, ones)),
        "alltoall": lambda: lambda: comm.wait(comm.ialltoall(rows, ones, rows.clone(), ones)),
        "ring": lambda: lambda: ring(comm),
        "sum": lambda: lambda: comm.sum_in_place(row),
        "sum inside MPI": lambda: lambda: spinning.sum_in_place(row),
        "broadcast": lambda: lambda: comm.broadcast(row, last),
        "largest": lambda: lambda: comm.largest(row, torch.tensor([0])),
        "barrier": lambda: comm.barrier,
        "split": lambda: lambda: comm.split(0, 0, "all"),
        "duplicate": lambda: lambda: comm.duplicate("other"),
        "split by host": lambda: lambda: comm.hosts(world.host),
        "allocate": lambda: memory(comm, world),
        "free": lambda: free(comm, world),
        "agree": lambda: world.agree,
        "gather": lambda: lambda: world.gather(0),
        "mailbox": lambda: Mailbox(world).wait,
        "end": lambda: leave,
    }


def stop() -> None:
    """Until somebody continues or ends this process."""
    os.kill(os.getpid(), signal.SIGSTOP)


def work(seconds: float, shows: bool) -> None:
    """Compute for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        if shows:
            works()


def gather(marker: Path) -> None:
    """Return when all ranks are here, without MPI: on a busy machine one may be seconds late."""
    Path(f"{marker}.{launched_rank()}").touch()
    while len(list(marker.parent.glob(f"{marker.name}.*"))) < launched_size():
        time.sleep(0.02)


def main(kind: str, timeout: float, marker: Path) -> None:
    """Let the last rank stop, or work, while the others are in a wait of this kind."""
    gather(marker)
    is_last = launched_rank() == launched_size() - 1
    if kind == "start" and is_last:
        stop()
    world = the_world(timeout)
    if kind in ("work", "silence"):
        if is_last:
            work(2.5 * timeout if timeout else 2.0, shows=kind == "work")
        world.agree()
        leave()
        return
    if kind == "finalize":
        leave()
        if is_last:
            stop()
        return
    wait = waits_of(world)[kind]()
    if is_last:
        stop()
    wait()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
