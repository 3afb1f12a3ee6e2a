"""`mpi-spp plan`: what a run would need on each rank, and how long it would take, before anything is loaded."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import FILE, json_option, model_options, schedule_options
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.cli._scenario import MOST_RANKS, length_options, link_options, read_known, take
from mpi_spp.config import RunConfig, option_name
from mpi_spp.errors import UserError
from mpi_spp.parallel.mesh import parse_mesh
from mpi_spp.system.units import limits_by_host

if TYPE_CHECKING:
    from mpi_spp.forecast.scenario import Scenario
    from mpi_spp.launch.hostfile import Host


@click.command("plan")
@click.option(
    "-np",
    "--num-ranks",
    type=click.IntRange(1, MOST_RANKS),
    help="Ranks, all on this host.  [default: those of --mesh, else one a core]",
)
@click.option("--hosts", help="Hosts with their ranks, such as a:2,b:2.")
@click.option("--hostfile", type=FILE, help="The hosts; `max-memory=8GiB` behind one limits its ranks.")
@schedule_options()
@model_options
@length_options
@link_options
@click.option("--all", "whole", is_flag=True, help="Also show messages, times, and each prefill with each decode.")
@json_option("Write the whole plan to this file;")
def command(json: str | None, whole: bool, **options: Any) -> None:
    """Memory and time of a run, before anything is loaded; needs no weights and no MPI.

    Speeds are those that runs on this machine have left in the cache folder; where there are none they are assumed,
    and the output says which.
    """
    given = take(options, "num_ranks", "hosts", "hostfile")
    check_outputs(json, {"--hostfile": given["hostfile"]})
    config = RunConfig(**options)
    hosts = _hosts(given, config.mesh)
    if sum(host.slots for host in hosts) > MOST_RANKS:
        raise UserError(f"plan: more than {MOST_RANKS} ranks; give fewer")
    data, scenario = _plan(config, hosts, given)
    joints = _joints(scenario) if whole or json is not None else []
    if json != "-":
        _show(data, joints if whole else None)
    write_json(json, data | {"joints": joints})


def _plan(config: RunConfig, hosts: Sequence["Host"], given: dict[str, Any]) -> tuple[dict[str, Any], "Scenario"]:
    """The forecast, or a refusal, of the chosen strategies, and what it was made of."""
    from mpi_spp.forecast.choice import choose, require_room
    from mpi_spp.forecast.forecast import as_data, forecast
    from mpi_spp.forecast.memory import require_positions

    scenario = _scenario(config, hosts, given)
    require_positions(scenario)
    choice = choose(scenario) if config.is_open else None
    found = forecast(scenario) if choice is None else choice.best
    require_room(found)
    data = as_data(found) | ({} if choice is None else {"choice": choice.as_data()})
    return data, found.scenario


def _hosts(given: dict[str, Any], mesh: str | None) -> tuple["Host", ...]:
    """The hosts by whichever option names them; else this one, with the ranks of the mesh."""
    from mpi_spp.launch.hostfile import Host, parse_hosts, read_hostfile
    from mpi_spp.launch.placement import num_cores_here

    named = [name for name in ("num_ranks", "hosts", "hostfile") if given[name] is not None]
    if len(named) > 1:
        raise UserError(f"{option_name(named[0])}: given with {option_name(named[1])}; leave one of them out")
    if given["hosts"] is not None:
        return parse_hosts(given["hosts"])
    if given["hostfile"] is not None:
        return read_hostfile(given["hostfile"])
    if mesh is not None and given["num_ranks"] is None:
        return (Host("localhost", parse_mesh(mesh).size),)
    return (Host("localhost", given["num_ranks"] or num_cores_here()),)


def _scenario(config: RunConfig, hosts: Sequence["Host"], given: dict[str, Any]) -> "Scenario":
    from mpi_spp.parallel.mesh import mesh_of

    names = [_name(host) for host in hosts for _ in range(host.slots)]
    limits = limits_by_host(config.max_memory, names, "--max-memory")
    limits |= {_name(host): host.max_memory for host in hosts if host.max_memory is not None}
    known = read_known(config, max(host.slots for host in hosts))
    mesh = mesh_of(config.mesh, len(names))
    if len(hosts) == 1 and any(given[name] is not None for name in ("link", "link_latency_us", "link_gbit")):
        raise UserError("--link: all ranks are on one host; give --hosts, or the --inside options for its own link")
    return known.scenario(mesh, names, given, limits)


def _name(host: "Host") -> str:
    """As the ranks of that host would call it."""
    from mpi_spp.launch.hostfile import is_this_machine

    return os.uname().nodename if is_this_machine(host.name) else host.name


def _joints(scenario: "Scenario") -> list[dict[str, Any]]:
    """Every prefill with every decode: the syncs that join them, and what the one that auto takes costs."""
    from mpi_spp.forecast.forecast import forecast
    from mpi_spp.forecast.sync import joints

    rows = []
    for joint in joints(scenario.mesh):
        row = {name: getattr(joint, name) for name in ("prefill", "decode", "syncs", "chosen")}
        row |= {"source": str(joint.source), "target": str(joint.target)}
        config = replace(scenario.config, prefill=joint.prefill, decode=joint.decode, sync_strategy=joint.chosen)
        try:
            found = forecast(replace(scenario, config=config))
            row |= {"received_bytes": max(of.received for of in found.sync), "exposed_s": found.times.sync}
        except UserError:
            pass  # a pair that this model cannot run on these ranks: it stands there without figures
        rows.append(row)
    return rows


def _show(data: dict[str, Any], joints: list[dict[str, Any]] | None) -> None:
    """All of it with joints; else what most ask for."""
    import sys

    from mpi_spp.instruments.report.plan import print_plan
    from mpi_spp.instruments.report.tables import console, tell

    if "choice" in data:
        tell(f"chosen {data['choice']['reason']}", sys.stdout)
    print_plan(data, joints, console(sys.stdout))
