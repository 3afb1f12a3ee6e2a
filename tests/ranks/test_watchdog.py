"""Every kind of wait is seen while it lasts: who waits for whom in which operation."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.liveness.heartbeat import lives
from mpi_spp.comm.liveness.watchdog import Watchdog
from mpi_spp.comm.mailbox import Mailbox
from mpi_spp.comm.world import World, leave, the_world
from mpi_spp.strategies.sync import ring

pytestmark = [
    pytest.mark.ranks(2, 4),
    pytest.mark.skipif(the_world().size == 1, reason="who is alone waits for nobody"),
]

TIMEOUT = 0.2
LATEST_SECONDS = 30.0
LARGE = 1 << 20  # numbers: more than any library sends ahead
Calls = tuple[Callable[[], object], Callable[[], object]]  # of those who wait, and of the last rank, which is late


def both(call: Callable[[], object]) -> Calls:
    return call, call


def send(comm: Communicator) -> Calls:
    message, last = torch.zeros(LARGE), comm.size - 1
    arrivals = [torch.zeros(LARGE) for _ in range(last)]
    return lambda: comm.wait(comm.isend(message, last, 7)), lambda: [
        comm.wait(comm.irecv(arrival, rank, 7)) for rank, arrival in enumerate(arrivals)
    ]


def receive(comm: Communicator) -> Calls:
    message, last = torch.zeros(2), comm.size - 1
    return lambda: comm.wait(comm.irecv(message, last, 7)), lambda: [
        comm.wait(comm.isend(message, rank, 7)) for rank in range(last)
    ]


def round_the_ring(comm: Communicator) -> None:
    """The sync strategy, with parts of one number."""
    parts = torch.zeros(comm.size, 1)
    for request in ring.exchange(comm, SimpleNamespace(part=lambda rank: parts[rank], tag=7)):  # type: ignore[arg-type]
        comm.wait(request)


def mail(world: World) -> Calls:
    mailbox, last = Mailbox(world), world.size - 1
    return mailbox.wait, lambda: [mailbox.post("hello", rank) for rank in range(last)] and mailbox.flush()


def calls_of(kind: str, world: World) -> Calls:
    """What all ranks have prepared together."""
    comm = Communicator(world.mpi_comm.Dup(), shares_core=kind != "sum inside MPI", name="test")
    row, rows, ones, last = torch.zeros(1), torch.zeros(comm.size, 1), [1] * comm.size, comm.size - 1
    calls: dict[str, Callable[[], Calls]] = {
        "send": lambda: send(comm),
        "receive": lambda: receive(comm),
        "allgather": lambda: both(lambda: comm.wait(comm.iallgather(rows, ones))),
        "alltoall": lambda: both(lambda: comm.wait(comm.ialltoall(rows, ones, rows.clone(), ones))),
        "ring": lambda: both(lambda: round_the_ring(comm)),
        "sum": lambda: both(lambda: comm.sum_in_place(row)),
        "sum inside MPI": lambda: both(lambda: comm.sum_in_place(row)),
        "broadcast": lambda: both(lambda: comm.broadcast(row, last)),
        "largest": lambda: both(lambda: comm.largest(row, torch.tensor([0]))),
        "barrier": lambda: both(comm.barrier),
        "split": lambda: both(lambda: comm.split(0, 0, "all")),
        "duplicate": lambda: both(lambda: comm.duplicate("other")),
        "hosts": lambda: both(lambda: comm.hosts(world.host)),
        "window": lambda: both(partial_memory(comm, world)),
        "free": lambda: both(comm.hosts(world.host).memory(8, "a test").free),
        "agree": lambda: both(world.agree),
        "gather": lambda: both(lambda: world.gather(0)),
        "mailbox": lambda: mail(world),
        "end": lambda: both(leave),
    }
    return calls[kind]()


def partial_memory(comm: Communicator, world: World) -> Callable[[], object]:
    hosts = comm.hosts(world.host)
    return lambda: hosts.memory(8, "a test")


# How the operation is told of; those of a set of ranks wait for all others.
WORDS = {
    "send": "send (test, tag 7, 4.2 MB)",
    "receive": "receive (test, tag 7, 8 bytes)",
    "allgather": "allgather (test, 4 bytes)",
    "alltoall": "alltoall (test, 4 bytes)",
    "ring": "receive (test, tag 7, 4 bytes)",
    "sum": "sum (test, 4 bytes)",
    "sum inside MPI": "sum (test, 4 bytes)",
    "broadcast": "broadcast (test, 4 bytes)",
    "largest": "largest (test, 8 bytes)",
    "barrier": "barrier (test)",
    "split": "split (test)",
    "duplicate": "duplicate (test)",
    "hosts": "split by host (shared memory)",
    "window": "gather (shared memory)",
    "free": "free (shared memory)",
    "agree": "agree (job)",
    "gather": "gather (job)",
    "mailbox": "receive (mailbox, tag 0)",
    "end": "its end (job)",
}


@contextmanager
def looking_on(told: Path) -> Iterator[list[str]]:
    """What a watchdog would say when it ended the job; the file is made then."""
    watchdog, ends, lines = Watchdog(lives[0], TIMEOUT), threading.Event(), list[str]()

    def look() -> None:
        while not ends.wait(watchdog.tick):
            finding = watchdog.look(watchdog.tick)
            if finding is not None and finding.is_end:
                lines.append(finding.line)
                told.touch()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lines
    finally:
        ends.set()
        thread.join()


@pytest.mark.parametrize("kind", WORDS)
def test_who_waits_for_whom_in_what(kind: str, world: World, tmp_path: Path) -> None:
    """The last rank comes when all others have been seen to wait; round the ring, some of them for one another."""
    wait, late = calls_of(kind, world)
    directory = world.on_rank_0(lambda: tmp_path)
    with looking_on(directory / str(world.rank)) as lines:
        if world.rank == world.size - 1:
            deadline = time.monotonic() + LATEST_SECONDS
            seen = [
                directory / str(rank) for rank in range(world.size - 1)
            ]  # this one, who works, may miss others, too
            while not all(path.exists() for path in seen) and time.monotonic() < deadline:
                time.sleep(0.02)
            late()
        else:
            wait()
    world.agree()
    if world.rank == world.size - 1:
        return
    of_last = kind in ("send", "receive")
    others = [world.size - 1] if of_last else [rank for rank in range(world.size) if rank != world.rank]
    if kind == "ring":
        others = [(world.rank - 1) % world.size]
    awaited = f"rank {others[0]}" if len(others) == 1 else f"ranks {', '.join(map(str, others))}"
    assert lines, "the wait was not seen"
    assert lines[0].startswith(f"mpi-spp: error: rank {world.rank} has waited 0 s, since ")
    assert f", for {awaited} in {WORDS[kind]}; " in lines[0]
