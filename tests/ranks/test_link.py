"""Messages between two ranks of a job, while the others have nothing to do with it."""

import itertools

import pytest

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.link import measure_pair
from mpi_spp.comm.world import World

pytestmark = pytest.mark.ranks(3)


def test_every_pair_is_measured(world: World, ranks: Communicator) -> None:
    for first, second in itertools.combinations(range(world.size), 2):
        if world.rank in (first, second):
            latency, rate = measure_pair(ranks, first, second)
            assert 0 < latency < 1 and 1e5 < rate < 1e15
        ranks.barrier()
