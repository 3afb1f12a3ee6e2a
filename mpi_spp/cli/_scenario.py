"""From options to a forecast's scenario: a model's shape, what this machine remembers, and what is given instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import GBIT_PER_S, MICROSECONDS, TOKENS, together
from mpi_spp.config import RunConfig

if TYPE_CHECKING:
    from pathlib import Path

    from mpi_spp.engine.costs import Measured
    from mpi_spp.forecast.scenario import Scenario
    from mpi_spp.forecast.speeds import Speeds
    from mpi_spp.parallel.links import Link
    from mpi_spp.parallel.mesh import Mesh

MOST_RANKS = 1 << 14  # of a forecast
_LINKS = ("100mbe", "1gbe", "10gbe", "25gbe", "100gbe", "infiniband", "nvlink")  # plan.links.PRESETS, without torch
_OF_LINKS = ("link", "link_latency_us", "link_gbit", "inside_link", "inside_latency_us", "inside_gbit")

length_options = together(
    click.option("--prompt-tokens", default=1024, show_default=True, type=TOKENS, help="Length of the prompt."),
    click.option("--new-tokens", default=128, show_default=True, type=TOKENS, help="Length of the answer."),
)

_MEASURED = "  [default: what runs have measured here]"
link_options = together(
    click.option("--link", type=click.Choice(_LINKS), help=f"Between hosts.{_MEASURED}"),
    click.option("--link-latency-us", type=MICROSECONDS, help="Of a message between hosts."),
    click.option("--link-gbit", type=GBIT_PER_S, help="Of the link between hosts, for all ranks of a host together."),
    click.option("--inside-link", type=click.Choice(_LINKS), help=f"Between the ranks of a host.{_MEASURED}"),
    click.option("--inside-latency-us", type=MICROSECONDS, help="Of a message inside a host."),
    click.option("--inside-gbit", type=GBIT_PER_S, help="Of the link inside a host, for each rank."),
)


def take(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options of lengths and links, and those named, out of all; the rest is a run's."""
    return {name: options.pop(name) for name in ("prompt_tokens", "new_tokens", *_OF_LINKS, *names)}


@dataclass(frozen=True)
class Known:
    """What all forecasts of a model on hosts like this one have in common."""

    config: RunConfig
    model: Any
    dtype: Any
    kernels: str
    threads: int
    cores: int
    kept: "Path"

    def scenario(
        self, mesh: "Mesh", hosts: Sequence[str], given: Mapping[str, Any], limits: Mapping[str, int] | None = None
    ) -> "Scenario":
        """Of these ranks, by host; `given`: see `take`."""
        from mpi_spp.forecast.measured import remembered_speeds
        from mpi_spp.forecast.scenario import Scenario

        speeds = remembered_speeds(self.what, hosts, self.cores, self.kept).of_first(mesh.replica_size)
        return Scenario(
            self.config,
            self.model,
            mesh,
            hosts[: mesh.replica_size],
            self.dtype,
            self.kernels,
            given["prompt_tokens"],
            given["new_tokens"],
            _with_links(speeds, given),
            limits or {},
        )

    @property
    def what(self) -> "Measured":
        """What measured figures depend on."""
        import torch

        from mpi_spp.engine.costs import Measured, weights_name

        weights = weights_name(self.kernels, self.config)
        return Measured(self.model, self.dtype, torch.device("cpu"), weights, self.threads)


def read_known(config: RunConfig, ranks_of_a_host: int) -> Known:
    """The model's shape, and how it would be run here. Needs config.json and no weights."""
    from mpi_spp.entrypoints.opening import read_model
    from mpi_spp.forecast.likely import likely_dtype, likely_kernels
    from mpi_spp.launch.placement import num_cores_here
    from mpi_spp.model.loading.hub import cache_directory
    from mpi_spp.model.loading.locate import locate

    cores, directory = num_cores_here(), locate(config.model, download=False)
    model, kept = read_model(directory), cache_directory() / "kernels"
    threads = config.threads or max(1, cores // ranks_of_a_host)
    dtype = likely_dtype(config, directory, model)
    return Known(config, model, dtype, likely_kernels(config, model, dtype, threads, kept), threads, cores, kept)


def _with_links(speeds: "Speeds", given: Mapping[str, Any]) -> "Speeds":
    """What the command line says of links goes before what is known."""
    links = speeds.links
    between = _given(links.between, *(given.get(name) for name in _OF_LINKS[:3]))
    inside = _given(links.inside, *(given.get(name) for name in _OF_LINKS[3:]))
    new = {"inside a host": inside is not links.inside, "between hosts": between is not links.between}
    if not any(new.values()):
        return speeds
    told = [f"given {where}" for where, is_new in new.items() if is_new]
    told += [one for one in speeds.origins["links"].split(", ") if not new.get(one.partition(" ")[2])]
    if inside is not links.inside or (links.sums is not None and links.sums.group.hosts > 1):
        speeds = speeds.without_sums()  # measured over another link
    origins = speeds.origins | {"links": ", ".join(told)}
    return replace(speeds, links=replace(speeds.links, inside=inside, between=between), origins=origins)


def _given(known: "Link", preset: str | None, latency_us: float | None, gbit: float | None) -> "Link":
    """The same object where nothing was given."""
    from mpi_spp.parallel.links import PRESETS

    if preset is None and latency_us is None and gbit is None:
        return known
    link = known if preset is None else PRESETS[preset]
    return replace(
        link,
        latency_s=link.latency_s if latency_us is None else latency_us * 1e-6,
        bytes_per_s=link.bytes_per_s if gbit is None else gbit * 1e9 / 8,
    )
