"""How fast the ranks of a job talk: measured when they meet, and kept for forecasts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.link import measure_link, measure_sums
from mpi_spp.kernels.memory import recall, remember
from mpi_spp.parallel.links import ASSUMED_BETWEEN, ASSUMED_INSIDE, Group, Link, Links, Sums

if TYPE_CHECKING:
    from mpi_spp.comm.world import World  # forecasts load no MPI library


def links_of_job(comm: Communicator, world: "World", hidden_size: int, directory: Path) -> Links:
    """The links of these ranks, the same on all. Collective.

    They are measured every time, in a tenth of a second: who else is on the way changes. What is kept is for plans.
    """
    if comm.size == 1:
        return Links(ASSUMED_INSIDE, ASSUMED_BETWEEN)
    first = world.rank - comm.rank
    hosts = world.gather(world.host)[first : first + comm.size]
    near = next((rank for rank in range(1, comm.size) if hosts[rank] == hosts[0]), None)
    far = next((rank for rank in range(1, comm.size) if hosts[rank] != hosts[0]), None)
    found = [None if other is None else Link(*measure_link(comm, other)) for other in (near, far)]
    sums = Sums(Group(comm.size, len(set(hosts))), *measure_sums(comm, hidden_size))
    inside, between, sums = world.gather((*found, sums))[first]
    if world.rank == 0:
        kept = {"inside": inside, "between": between, "sums": sums}
        entry = {name: None if value is None else asdict(value) for name, value in kept.items()}
        memory, key = directory / "links.json", f"{links_key(hosts, hidden_size)}, {world.library}"
        remember(memory, recall(memory) | {key: entry})
    return Links(inside or ASSUMED_INSIDE, between or ASSUMED_BETWEEN, sums)


def links_key(hosts: Sequence[str], hidden_size: int) -> str:
    """What the figures of links depend on, besides the MPI library."""
    return f"{' '.join(f'{host}:{count}' for host, count in Counter(hosts).items())}, rows of {hidden_size}"
