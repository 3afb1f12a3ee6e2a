"""Puts what was measured in the place of "auto", before a run loads anything: the same on all ranks."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mpi_spp.config import RunConfig
from mpi_spp.engine.measuring import Measuring
from mpi_spp.forecast.choice import choose, require_room
from mpi_spp.forecast.forecast import forecast, speeds_as_data
from mpi_spp.forecast.measured import measured_speeds
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.forecast.speeds import Speeds
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.system.progress import announced
from mpi_spp.system.units import limits_by_host

log = logging.getLogger(__name__)


def limits_of(config: RunConfig, hosts: Sequence[str], replica: slice) -> dict[str, int]:
    """The bytes that the ranks of one replica may use on each host: what all ranks there may, by their number."""
    limits, all_ranks = limits_by_host(config.max_memory, hosts, "--max-memory"), Counter(hosts)
    mine = Counter(hosts[replica])
    return {host: limits[host] * count // all_ranks[host] for host, count in mine.items() if host in limits}


class Resolver:
    """Puts strategies in the place of "auto" for an engine, and remembers the speeds by which it chose."""

    def __init__(self) -> None:
        self._speeds: Speeds | None = None

    def __call__(
        self, config: RunConfig, mesh: Mesh, measuring: Measuring, prompt_tokens: int, program_bytes: int
    ) -> tuple[RunConfig, dict[str, Any] | None]:
        """The configuration without "auto", and what was chosen and why; None where nothing was left to choose.

        `prompt_tokens`: of the prompts to expect. `program_bytes`: resident on this rank without the model. Rank 0's
        figures decide for all. Raises UserError on all ranks where nothing fits, also into --max-memory. Collective.
        """
        if not config.is_open and config.max_memory is None:
            return config, None
        world, loader = measuring.world, measuring.loader
        hosts = world.gather(world.host)
        scenario = Scenario(
            config,
            loader.model,
            mesh,
            hosts[measuring.replica],
            loader.dtype,
            loader.kernels,
            prompt_tokens,
            config.max_new_tokens,
            self._measured(measuring),
            limits_of(config, hosts, measuring.replica),
            max(world.gather(program_bytes)),
        )
        chosen = world.on_rank_0(lambda: _decide(scenario))
        if chosen is None:
            return config, None
        log.info("chosen %s", chosen["reason"])
        names = ("prefill", "decode", "sync_granularity")
        return replace(config, **{name: chosen[name] for name in names}), chosen

    def _measured(self, measuring: Measuring) -> Speeds:
        """How fast the ranks compute and talk. Collective."""
        if self._speeds is None:
            loader, costs, links = measuring.loader, measuring.costs, measuring.links
            ranks = (measuring.comm, measuring.world)
            with announced("measuring what a new token costs, once for this model and ranks", ranks[1].rank == 0):
                what = (loader.what, costs, loader.first_layers)
                self._speeds = measured_speeds(*what, *ranks, links, measuring.directory)
        return self._speeds


def _decide(scenario: Scenario) -> dict[str, Any] | None:
    if not scenario.config.is_open:
        require_room(forecast(scenario))
        return None
    return choose(scenario).as_data() | {"speeds": speeds_as_data(scenario)}
