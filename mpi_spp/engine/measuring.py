"""Speeds of the ranks that run, each measured when it is first asked for, and what they decide."""

from functools import cached_property
from typing import Any

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine.loading import Loader
from mpi_spp.forecast.measured import links_of_job, measured_speeds
from mpi_spp.forecast.resolve import limits_of, needs_settling, settle
from mpi_spp.forecast.scenario import Setting
from mpi_spp.forecast.speeds import Speeds
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel.links import Links
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.schedule import Cost
from mpi_spp.system.progress import announced


class Measuring:
    """Of the ranks of one replica. To ask for something for the first time is collective over the job."""

    def __init__(self, loader: Loader, comm: Communicator, world: World) -> None:
        """`comm`: the ranks of the replica."""
        self._loader, self._comm, self._world = loader, comm, world
        self._directory = cache_directory() / "kernels"

    @cached_property
    def costs(self) -> list[Cost]:
        """What a layer costs on each rank."""
        first = self._world.rank - self._comm.rank
        with announced("measuring what a layer costs, once for this model and threads", self._world.rank == 0):
            return self._loader.costs()[first : first + self._comm.size]

    @cached_property
    def links(self) -> Links:
        """How fast the ranks talk."""
        return links_of_job(self._comm, self._world, self._loader.what.config.hidden_size, self._directory)

    @cached_property
    def speeds(self) -> Speeds:
        """How fast they compute and talk."""
        loader, ranks = self._loader, (self._comm, self._world)
        costs, links = self.costs, self.links
        with announced("measuring what a new token costs, once for this model and ranks", self._world.rank == 0):
            return measured_speeds(loader.what, costs, loader.first_layers, *ranks, links, self._directory)

    def settle(
        self, config: RunConfig, mesh: Mesh, prompt_tokens: int, program_bytes: int
    ) -> tuple[RunConfig, dict[str, Any] | None]:
        """The strategies in the place of "auto", and why; refuses what needs more than --max-memory. Collective.

        `prompt_tokens`: of the prompts to expect. `program_bytes`: resident on this rank without the model.
        """
        if not needs_settling(config):
            return config, None
        world, loader, first = self._world, self._loader, self._world.rank - self._comm.rank
        hosts, replica = world.gather(world.host), slice(first, first + self._comm.size)
        setting = Setting(
            config,
            loader.model,
            mesh,
            hosts[replica],
            loader.dtype,
            loader.kernels,
            prompt_tokens,
            config.max_new_tokens,
            self.speeds,
            limits_of(config, hosts, replica),
            max(world.gather(program_bytes)),
        )
        return settle(setting, world)
