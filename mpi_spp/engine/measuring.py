"""Speeds of the ranks that run, each measured when it is first asked for."""

from functools import cached_property

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World
from mpi_spp.engine.links import links_of_job
from mpi_spp.engine.loading import Loader
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel.links import Links
from mpi_spp.parallel.schedule import Cost
from mpi_spp.system.progress import announced


class Measuring:
    """The figures of one replica's ranks. To ask for one for the first time is collective over the job."""

    def __init__(self, loader: Loader, comm: Communicator, world: World) -> None:
        """`comm`: the ranks of the replica."""
        self.loader, self.comm, self.world = loader, comm, world
        self.directory = cache_directory() / "kernels"

    @property
    def replica(self) -> slice:
        """Where the replica's ranks stand among all."""
        first = self.world.rank - self.comm.rank
        return slice(first, first + self.comm.size)

    @cached_property
    def costs(self) -> list[Cost]:
        """What a layer costs on each rank."""
        with announced("measuring what a layer costs, once for this model and threads", self.world.rank == 0):
            return self.loader.costs()[self.replica]

    @cached_property
    def links(self) -> Links:
        """How fast the ranks talk."""
        return links_of_job(self.comm, self.world, self.loader.what.config.hidden_size, self.directory)
