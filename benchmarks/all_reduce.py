"""What the sums of tensor-parallel decode cost: ours beside the bare MPI call, in turn.

    mpirun -np 2 --bind-to core python -m mpi4py -m benchmarks.all_reduce [--rounds 2000]

Two sums of [1, hidden_size] in float32 a layer; every rank must have the last one before it goes on.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import click
import torch
from mpi4py import MPI

from benchmarks import machine
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world

MODELS = {"smollm2-135m": (30, 576), "qwen3-491m": (28, 1024), "llama-8b": (32, 4096)}  # layers, hidden size
_BATCH = 100  # calls that are timed together


@click.command()
@click.option("--rounds", default=2000, show_default=True, help="Calls of each kind.")
def main(rounds: int) -> None:
    """Print microseconds a call, a layer and a token."""
    machine.tell()
    world = the_world()
    comm = Communicator(world.mpi_comm.Dup(), shares_core=world.some_share_cores(world.default_threads()))
    raw = world.mpi_comm.Dup()
    for name, (layers, size) in MODELS.items():
        hidden, buffer = torch.zeros(1, size), torch.zeros(size).numpy()
        spec = [buffer, size, MPI.FLOAT]
        times: dict[str, list[float]] = {"ours": [], "MPI": []}
        for _ in range(max(1, rounds // _BATCH)):
            times["ours"].append(_seconds(partial(comm.sum_in_place, hidden), raw))
            times["MPI"].append(_seconds(partial(raw.Allreduce, MPI.IN_PLACE, spec), raw))
        if world.rank == 0:
            ours, theirs = (statistics.median(of) * 1e6 for of in times.values())
            click.echo(
                f"{name:14} {size:5} floats: ours {ours:6.2f} us, MPI {theirs:6.2f} us a call;"
                f" ours {2 * ours:6.2f} us a layer, {2 * layers * ours / 1e3:6.3f} ms a token"
            )


def _seconds(call: Callable[[], object], comm: MPI.Comm) -> float:
    """Of one call, on the slowest rank."""
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(_BATCH):
        call()
    mine = (time.perf_counter() - start) / _BATCH
    slowest: float = comm.allreduce(mine, MPI.MAX)
    return slowest


if __name__ == "__main__":
    main()
