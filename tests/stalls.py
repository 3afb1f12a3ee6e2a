"""Ranks that wait for the last one, which has stopped: `mpirun -np N python tests/stalls.py KIND TIMEOUT MARKER`.

`MARKER`, a path of which nothing is there, tells the processes of one test from all others.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.environment import launched_rank, launched_size
from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.world import leave, the_world


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
    comm = Communicator(world.mpi_comm.Dup(), shares_core=kind == "receive", name="test")
    if kind in ("work", "silence") and is_last:
        work(2.5 * timeout if timeout else 2.0, shows=kind == "work")
    if kind in ("receive", "sum") and is_last:
        stop()
    if kind == "receive":
        comm.wait(comm.irecv(torch.zeros(2), comm.size - 1, tag=7))
    if kind == "sum":
        comm.sum_in_place(torch.zeros(2))
    leave()
    if kind == "finalize" and is_last:
        stop()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
