"""`mpi-spp bench comm`: what messages cost on the ranks at hand, through this package and through what others use."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import FILE, Number, device_options, json_option, memory_option, timeout_option
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.comm.bench import DTYPES, MODES, OPERATIONS, TRANSPORTS
from mpi_spp.comm.environment import limit
from mpi_spp.errors import UserError
from mpi_spp.system.progress import Progress
from mpi_spp.system.units import MemoryLimit, limits_by_host, parse_bytes, show_bytes

if TYPE_CHECKING:
    from mpi_spp.comm.bench.measure import LeftOut, Point, Settings
    from mpi_spp.comm.bench.transport import Transport
    from mpi_spp.comm.world import World

_GROWTH = 4  # from one size of a range to the next
_LARGEST = 1 << 30  # what raw MPI counts in 32 bits


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read `1KiB,1MiB`, `1KiB..64MiB` (in steps of 4 times) or a mixture. Raises UserError."""
    sizes = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        size = parse_bytes(first, "--sizes")
        end = parse_bytes(last, "--sizes") if dots else size
        if end < size:
            raise UserError(f"--sizes: {part.strip()} ends before it begins")
        if end > _LARGEST:
            raise UserError(f"--sizes: {part.strip()} is too large; give {show_bytes(_LARGEST)} or less")
        while size <= end:
            sizes.add(size)
            size *= _GROWTH
    return tuple(sorted(sizes))


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    return parse_sizes(value)


def _some_of(choices: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Reads names with commas between them."""

    def read(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        for name in names:
            if name not in choices:
                raise UserError(f"--{param.name}: {name!r} is unknown; choose some of {','.join(choices)}")
        return names

    return read


def _names_option(name: str, choices: Sequence[str], help_text: str) -> Callable[[Any], Any]:
    everything = ",".join(choices)
    return click.option(
        name,
        default=everything,
        callback=_some_of(choices),
        help=f"{help_text}  [default: {everything}]",
        metavar="NAMES",
    )


@click.command("comm")
@_names_option("--operations", OPERATIONS, "What is exchanged; ping-pong is between the first and the last rank.")
@_names_option("--modes", MODES, "How a rank waits.")
@_names_option(
    "--transports", TRANSPORTS, "Our communicator, and what it is compared with; those that are not there are left out."
)
@click.option(
    "--sizes",
    default="1KiB..64MiB",
    callback=_sizes,
    show_default=True,
    metavar="SIZES",
    help="Of a message from one rank to another: 1KiB,1MiB or FROM..TO in steps of 4 times.",
)
@click.option(
    "--dtype", default="float32", type=click.Choice(list(DTYPES)), show_default=True, help="Of the allreduce's sum."
)
@click.option(
    "--seconds",
    default=0.2,
    show_default=True,
    type=Number(0, 60, min_open=True),
    help="For each point, which decides how often it is repeated.",
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="In which the transports take turns; the median counts.",
)
@click.option(
    "--tests",
    default=10,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="During a computation that shall hide an exchange.",
)
@device_options
@memory_option
@timeout_option
@json_option("Write all cases, ratios and fits to this file;")
@click.option("--plot", type=FILE, help="Draw the curves to this .png or .svg.")
def comm(sizes: tuple[int, ...], json: str | None, plot: str | None, **options: Any) -> None:
    """Time and bandwidth of messages: our communicator against raw MPI, pickles, and torch.distributed."""
    _check(sizes, plot, options)

    import torch

    from mpi_spp.comm.bench.choice import open_transports
    from mpi_spp.comm.bench.measure import Settings
    from mpi_spp.comm.world import the_world
    from mpi_spp.model.device import choose_device

    world = the_world(limit(options["timeout"]))
    world.on_rank_0(lambda: check_outputs(json, plot=plot))
    if world.size == 1:
        raise UserError(
            "bench comm: one rank has nobody to exchange messages with; start two or more:"
            " mpi-spp launch -np 2 -- bench comm"
        )
    torch.set_num_threads(1)  # threads of torch that wait for work would disturb what is measured
    device = world.together(
        lambda: choose_device(options["device"], options["gpu_ids"], world.local_rank, world.local_size)
    )
    settings = Settings(
        seconds=options["seconds"],
        rounds=options["rounds"],
        tests=options["tests"],
        dtype=getattr(torch, options["dtype"]),
        device=device,
        memory_bytes=_memory_bytes(world, options["max_memory"]),
    )
    transports, missing = open_transports(options["transports"], world, device, options["cuda_aware"])
    points, left_out = _measure(world, settings, transports, sizes, options)
    for transport in transports:
        transport.close()
    if not points:
        first = (missing + left_out)[0]
        raise UserError(
            f"bench comm: nothing is left to measure ({first.transport} {first.reason});"
            " see --transports, --modes, --sizes and --max-memory"
        )
    machine = _machine(world, str(device))
    configuration = {**options, "sizes": sizes, "device": device.type}
    world.on_rank_0(lambda: _tell(points, missing + left_out, configuration, machine, json, plot))


def _check(sizes: tuple[int, ...], plot: str | None, options: dict[str, Any]) -> None:
    """Refuse what cannot be measured or drawn, before anything is loaded."""
    odd = next((size for size in sizes if size % DTYPES[options["dtype"]]), None)
    if odd is not None and "allreduce" in options["operations"]:
        raise UserError(f"--sizes: {odd} bytes are no whole number of {options['dtype']} for an allreduce")
    if plot is not None:
        from mpi_spp.instruments.report.plots import require_plots

        require_plots(plot, "--plot")


def _memory_bytes(world: "World", max_memory: MemoryLimit) -> int:
    """What every rank may use: its share of what its host has free, or of --max-memory if that is less. Collective."""
    from mpi_spp.system.limits import memory_available

    free = memory_available()
    limits = limits_by_host(max_memory, world.gather(world.host), "--max-memory")
    return min(world.gather(min(free, limits.get(world.host, free)) // world.local_size))


def _measure(
    world: "World",
    settings: "Settings",
    transports: Sequence["Transport"],
    sizes: Sequence[int],
    options: dict[str, Any],
) -> tuple[list["Point"], list["LeftOut"]]:
    """All points, and what was left out. Collective."""
    from mpi_spp.comm.bench.measure import LeftOut, Meter, Point

    meter = Meter(world, settings)
    points: list[Point] = []
    left_out: list[LeftOut] = []
    operations, modes = options["operations"], options["modes"]
    total = len(operations) * len(sizes) * len(modes)
    with Progress("measuring", total, "point", shows=world.rank == 0) as progress:
        for operation in operations:
            for size in sizes:
                for found in meter.points(operation, size, modes, transports):
                    points += [one for one in found if isinstance(one, Point)]
                    left_out += [one for one in found if isinstance(one, LeftOut)]
                    progress.advance()
    return points, left_out


def _machine(world: "World", device: str) -> dict[str, Any]:
    """What the figures were measured on. Collective."""
    import torch

    from mpi_spp.system import cpu

    shares_core = world.shares_core(world.default_threads())
    rank = {
        "rank": world.rank,
        "host": world.host,
        "device": device,
        "affinity": world.cores,
        "shares_core": shares_core,
    }
    return {**cpu.facts(), "torch": torch.__version__, "mpi": world.library, "ranks": world.gather(rank)}


def _tell(
    points: Sequence["Point"],
    left_out: Sequence["LeftOut"],
    configuration: dict[str, Any],
    machine: dict[str, Any],
    json: str | None,
    plot: str | None,
) -> None:
    """Tables, JSON and the picture."""
    from mpi_spp.instruments.report.comm import case_of, comparisons, fits, print_comm
    from mpi_spp.instruments.report.tables import console

    cases = [case_of(asdict(point)) for point in points]
    result = {
        "benchmark": "comm",
        "num_ranks": len(machine["ranks"]),
        "configuration": configuration,
        "cases": cases,
        "comparisons": comparisons(cases),
        "fits": fits(cases),
        "left_out": [asdict(one) for one in left_out],
        "machine": machine,
    }
    if json != "-":
        print_comm(result, console(sys.stdout))
    write_json(json, result)
    if plot is not None:
        from mpi_spp.instruments.report.comm_plot import plot_comm

        plot_comm(result, plot)
