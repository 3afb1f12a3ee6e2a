"""Puts what was measured in the place of "auto", before a run loads anything: the same on all ranks."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpi_spp.config import RunConfig
from mpi_spp.forecast.choice import choose, require_room
from mpi_spp.forecast.forecast import forecast, speeds_as_data
from mpi_spp.forecast.scenario import Setting
from mpi_spp.system.units import limits_by_host

if TYPE_CHECKING:
    from mpi_spp.comm.world import World

log = logging.getLogger(__name__)


def needs_settling(config: RunConfig) -> bool:
    """Whether anything is left to decide, or to refuse."""
    return config.is_open or config.max_memory is not None


def limits_of(config: RunConfig, hosts: Sequence[str], replica: slice) -> dict[str, int]:
    """The bytes that the ranks of one replica may use on each host: what all ranks there may, by their number."""
    limits, all_ranks = limits_by_host(config.max_memory, hosts, "--max-memory"), Counter(hosts)
    mine = Counter(hosts[replica])
    return {host: limits[host] * count // all_ranks[host] for host, count in mine.items() if host in limits}


def settle(setting: Setting, world: "World") -> tuple[RunConfig, dict[str, Any] | None]:
    """The configuration without "auto", and what was chosen and why; None where nothing was left to choose.

    Rank 0's figures decide for all. Raises UserError on all ranks where nothing fits. Collective.
    """
    chosen = world.on_rank_0(lambda: _decide(setting))
    if chosen is None:
        return setting.config, None
    log.info("chosen %s", chosen["reason"])
    names = ("prefill", "decode", "sync_granularity")
    return replace(setting.config, **{name: chosen[name] for name in names}), chosen


def _decide(setting: Setting) -> dict[str, Any] | None:
    if not setting.config.is_open:
        require_room(forecast(setting))
        return None
    return choose(setting).as_data() | {"speeds": speeds_as_data(setting)}
