"""`mpi-spp simulate`: how long a request would take on other ranks, hosts, links and devices than those at hand."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import FILE, GB_PER_S, PERCENT, TFLOPS, json_option, model_options, schedule_options
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.cli._scenario import MOST_RANKS, Known, length_options, link_options, read_known, take
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.parallel.mesh import parse_mesh
from mpi_spp.system import cpu
from mpi_spp.system.units import limits_by_host

if TYPE_CHECKING:
    from mpi_spp.forecast.scenario import Scenario

_DEVICES = ("jetson-orin-nano", "jetson-agx-orin", "l4", "rtx-4090", "a100-80gb", "h100-sxm")  # plan.devices.DEVICES
_RANKS = "1,2,4,...,64"


def parse_ranks(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Read `4` and so on; nothing is an empty tuple."""
    return () if value is None else _read_ranks(value)


def _read_ranks(value: str) -> tuple[int, ...]:
    """Read `4`, `1,2,3` or `1,2,4,...,1024`: dots go on doubling after a doubling, else by the same step."""
    parts = [part.strip() for part in value.split(",")]
    numbers = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 9]
    dots = parts.count("...")
    if len(numbers) + dots != len(parts) or not all(1 <= number <= MOST_RANKS for number in numbers):
        raise click.BadParameter(f"{value!r} is no list of counts from 1 to {MOST_RANKS}, such as 1,2,4,...,1024")
    if numbers != sorted(set(numbers)):
        raise click.BadParameter(f"{value!r} does not rise from count to count")
    if dots and (dots > 1 or parts.index("...") != len(parts) - 2 or len(numbers) < 3):
        raise click.BadParameter(f"{value!r}: dots stand between two counts or more and the last one")
    return tuple(_filled(numbers) if dots else numbers)


def _filled(numbers: list[int]) -> list[int]:
    """With those between the last number but one and the last."""
    *given, last = numbers
    first, second = given[-2:]
    while (after := 2 * given[-1] if second == 2 * first else given[-1] + second - first) < last:
        given.append(after)
    return [*given, last]


@click.command("simulate")
@click.option(
    "--ranks",
    callback=parse_ranks,
    metavar="N|N,N,...,N",
    help=f"How many.  [default: those of --mesh with pp, else {_RANKS}]",
)
@click.option(
    "--ranks-per-host", type=click.IntRange(1, MOST_RANKS), help="How many of them share one.  [default: its cores]"
)
@schedule_options()
@model_options
@length_options
@link_options
@click.option(
    "--compute", type=click.Choice(_DEVICES), help="A device for each rank, by its data sheet.  [default: as measured]"
)
@click.option("--tflops", type=TFLOPS, help="Of each rank in 16 bits, in place of what was measured.")
@click.option("--memory-gb-per-s", type=GB_PER_S, help="That each rank reads, in place of what was measured.")
@click.option(
    "--knee-percent", default=10.0, show_default=True, type=PERCENT, help="A doubling that gains less does not pay."
)
@click.option("--plot", type=FILE, help="Draw times and efficiency into this file (extra `plots`).")
@json_option("Write the rows to this file;")
def command(json: str | None, plot: str | None, ranks: tuple[int, ...], **options: Any) -> None:
    """Times of one request on ever more ranks, and where adding ranks stops paying; needs no weights and no MPI.

    The model of time is that of `plan` and of `--prefill auto`. Costs of layers and links are those that runs on this
    machine have left in the cache folder, unless options give others.
    """
    check_outputs(json, plot=plot)
    if plot is not None:
        from mpi_spp.instruments.report.plots import require_plots

        require_plots(plot, "--plot")
    given = take(options, "ranks_per_host", "compute", "tflops", "memory_gb_per_s", "knee_percent")
    config = RunConfig(**options)
    from mpi_spp.forecast.simulation import knee, simulate

    ranks = ranks or _default_ranks(config.mesh)
    per_host = given["ranks_per_host"] or _cores()
    known = read_known(config, per_host)
    alone = _scenario(replace(known, config=replace(config, mesh=None, layer_split="auto")), 1, per_host, given)
    rows = simulate(lambda count: _scenario(known, count, per_host, given), ranks, alone, per_host)
    worth = given["knee_percent"] / 100
    data = _told(known, per_host, given) | {"worth": worth, "knee": knee(rows, worth), "rows": rows}
    if json != "-":
        _show(data)
    write_json(json, data)
    if plot is not None:
        from mpi_spp.instruments.report.simulation import draw

        draw(data, plot)


def _default_ranks(mesh: str | None) -> tuple[int, ...]:
    """Those of a mesh that says how many stages there are, else ever more."""
    size = None if mesh is None or "pp" not in mesh else parse_mesh(mesh).size
    if size is None:
        return _read_ranks(_RANKS)
    if size > MOST_RANKS:
        raise UserError(f"--mesh: {mesh} is for {size} ranks; give {MOST_RANKS} or fewer")
    return (size,)


def _cores() -> int:
    from mpi_spp.launch.placement import num_cores_here

    return num_cores_here()


def _scenario(known: Known, num_ranks: int, per_host: int, given: dict[str, Any]) -> "Scenario":
    from mpi_spp.forecast.devices import on_device
    from mpi_spp.forecast.memory import require_positions
    from mpi_spp.forecast.simulation import hosts_of, mesh_for

    mesh = mesh_for(known.config.mesh, num_ranks, known.model.num_hidden_layers)
    hosts = hosts_of(num_ranks, per_host)
    limits = limits_by_host(known.config.max_memory, hosts, "--max-memory")
    scenario = known.scenario(mesh, hosts, given, limits)
    require_positions(scenario)
    device = _device(given)
    if device is None:
        return scenario
    layer_bytes = round(scenario.sizes().of_layer())
    return replace(scenario, speeds=on_device(scenario.speeds, device, scenario.model, layer_bytes))


def _device(given: dict[str, Any]) -> Any:
    """By name, with what is given beside it; None: what was measured."""
    from mpi_spp.forecast.devices import DEVICES, Device

    named = DEVICES.get(given["compute"])
    flops, rate = given["tflops"], given["memory_gb_per_s"]
    if named is None and flops is None and rate is None:
        return None
    if named is None:
        if flops is None or rate is None:
            missing = "--tflops" if flops is None else "--memory-gb-per-s"
            raise UserError(f"{missing}: is missing; a device has both, or give --compute")
        return Device(flops * 1e12, rate * 1e9)
    return Device(named.flops if flops is None else flops * 1e12, named.bytes_per_s if rate is None else rate * 1e9)


def _told(known: Known, per_host: int, given: dict[str, Any]) -> dict[str, Any]:
    """What all rows have in common."""
    return {
        "model": known.config.model,
        "dtype": str(known.dtype).removeprefix("torch."),
        "kernels": known.kernels,
        **cpu.facts(),
        "threads": known.threads,
        "ranks_per_host": per_host,
        "prompt_tokens": given["prompt_tokens"],
        "new_tokens": given["new_tokens"],
    }


def _show(data: dict[str, Any]) -> None:
    import sys

    from mpi_spp.instruments.report.simulation import print_simulation
    from mpi_spp.instruments.report.tables import console

    print_simulation(data, console(sys.stdout))
