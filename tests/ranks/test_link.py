"""Messages and clocks between two ranks of a job, while the others have nothing to do with it."""

import itertools

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.link import measure_clock, measure_pair
from mpi_spp.comm.world import World


def test_every_pair_is_measured(world: World, ranks: Communicator) -> None:
    for first, second in itertools.combinations(range(world.size), 2):
        if world.rank in (first, second):
            latency, rate = measure_pair(ranks, first, second)
            assert 0 < latency < 1 and 1e5 < rate < 1e15
        ranks.barrier()


def test_the_clocks_of_one_machine_are_one(world: World, ranks: Communicator) -> None:
    for other in range(1, world.size):
        if world.rank in (0, other):
            ahead, uncertainty = measure_clock(ranks, 0, other)
            assert world.rank == other or abs(ahead) <= uncertainty + 1e-4 < 1
        ranks.barrier()
