"""`mpi-spp launch`: start a command on several ranks, with the options that the MPI at hand needs."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NoReturn

import click

from mpi_spp.cli._debug import DEFAULT_PORT, debug_variables
from mpi_spp.cli._options import FILE, json_option, parse_gpu_ids
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.cli._slurm import allocation_of, print_or_submit, slurm_options
from mpi_spp.comm.environment import launched_size
from mpi_spp.config import MOST_THREADS, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.launch import completion_marker as sign
from mpi_spp.launch.handed_in import handed_in, keep_for_rank_0, refuse_elsewhere
from mpi_spp.launch.hostfile import MOST_RANKS, Host, is_this_machine, memory_limits, read_hostfile
from mpi_spp.launch.interface import check_interface
from mpi_spp.launch.launcher import find_launcher, require_same_mpi
from mpi_spp.launch.line import (
    DEFAULT_RANKS_LIMIT,
    LaunchRequest,
    check_gpu_ids,
    check_max_slots,
    default_num_ranks,
    mpirun_line,
    request_here,
)
from mpi_spp.launch.placement import num_cores_here
from mpi_spp.launch.preflight import require_hosts
from mpi_spp.launch.supervisor import run_guarded
from mpi_spp.system import start

_RANKS_HELP = (
    "Ranks to start.  [default: all slots of the hostfile; else one for each GPU id; else one for each core,"
    f" at most {DEFAULT_RANKS_LIMIT}]"
)
_OF_ONE_RUN = ("ask", "batch", "generate", "serve")  # whose options are those of one RunConfig
_EXAMPLE = "mpi-spp launch -np 3 -- generate --model NAME --prompt TEXT"


@click.command("launch", context_settings={"allow_interspersed_args": False})
@click.option("-np", "-n", "num_ranks", type=click.IntRange(1, MOST_RANKS), metavar="N", help=_RANKS_HELP)
@click.option("--hostfile", type=FILE, help="The hosts, in the format of Open MPI, MPICH or Intel MPI.")
@click.option("--gpu-ids", callback=parse_gpu_ids, help="GPUs of each host, one a rank: 5,6,7.")
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help="Threads and cores of each rank.  [default: every host divides all its cores; with --scheduler: 1]",
)
@click.option(
    "--interface",
    metavar="NAME|SUBNET",
    help="Network between the hosts, where they have several: eth1, or 10.0.0.0/24 (Open MPI only).",
)
@slurm_options
@click.option("--dry-run", is_flag=True, help="Print the line, or the script, and start nothing.")
@json_option("With --dry-run: write it to this file;")
@click.option("--debug-rank", type=click.IntRange(0, MOST_RANKS - 1), help="This rank waits for a debugger.")
@click.option(
    "--debug-port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="Where it waits."
)
@click.argument("inner", nargs=-1, metavar="-- COMMAND [OPTIONS]...")
def command(
    num_ranks: int | None,
    hostfile: str | None,
    gpu_ids: tuple[int, ...],
    threads: int | None,
    interface: str | None,
    dry_run: bool,
    json: str | None,
    debug_rank: int | None,
    debug_port: int,
    inner: tuple[str, ...],
    **allocation: Any,
) -> None:
    """Run an mpi-spp COMMAND on several ranks: mpi-spp launch -np 3 -- generate --model ...

    The mpirun beside this Python is used, else the one on PATH; MPI_SPP_MPIRUN names another, with options if need be.
    Ranks on other hosts start by ssh, and need this Python and the model under the same paths.
    With --scheduler slurm the command is submitted, to run on nodes that Slurm chooses.
    """
    if json is not None and not dry_run:
        raise click.UsageError("--json: keeps the line of --dry-run; give it behind the COMMAND for what that measures")
    check_outputs(json, {"--hostfile": hostfile})
    if launched_size() > 1:
        raise UserError("launch: runs under an mpirun already; start it on its own, or leave it out")
    hosts = read_hostfile(hostfile) if hostfile is not None else ()
    shared = {"gpu_ids": ",".join(map(str, gpu_ids)), "threads": str(threads or ""), "max_memory": memory_limits(hosts)}
    inner, values = _complete(inner, shared)
    gpu_ids, threads = gpu_ids or values.get("gpu_ids") or (), threads or values.get("threads")
    check_max_slots(num_ranks or 1, hosts)
    asked, only_here = allocation_of(allocation, gpu_ids), handed_in(values)
    refuse_elsewhere(only_here, hosts, asked is not None)
    if asked is not None:
        num_ranks = num_ranks or asked.default_num_ranks(hosts)
    else:
        num_ranks = num_ranks or default_num_ranks(hosts, gpu_ids, num_cores_here())
        check_gpu_ids(gpu_ids, num_ranks, hosts)
    exports = _debugging(debug_rank, debug_port, num_ranks)
    if interface is not None:
        check_interface(interface, _networks_here(hosts) if asked is None else None)
    request = request_here((*start.words(), *inner), num_ranks, hosts, threads, exports, interface)
    if asked is not None:
        print_or_submit(asked, request, dry_run, json)
    elif dry_run:
        _print(request, json)
    else:
        _start(request, only_here, is_server=inner[0] == "serve")


def _complete(inner: tuple[str, ...], shared: dict[str, str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The inner command with the options that `launch` was given for it too, and the values of all its options."""
    values = _parse(inner)
    for name, value in shared.items():
        option = "--" + name.replace("_", "-")
        if value and values.get(name):
            raise UserError(f"{option}: given to launch or in the hostfile, and to {inner[0]}; leave one of them out")
        # A command without threads of its own is still bound to so many cores; ids of GPUs must reach the program.
        if value and (name in values or name == "gpu_ids"):
            inner += (option, value)
    values = _parse(inner)
    if inner[0] in _OF_ONE_RUN:  # what it would refuse is refused before ranks are started
        RunConfig(**{one.name: values[one.name] for one in fields(RunConfig) if one.name in values})
    return inner, values


def _parse(inner: tuple[str, ...]) -> dict[str, Any]:
    """Read the inner command here, so that a wrong word is one line and not one of each rank and mpirun's besides."""
    from mpi_spp.cli import commands

    context, words = click.Context(commands, info_name="mpi-spp"), list(inner)
    while isinstance(context.command, click.Group):
        if not words:
            raise click.UsageError(f"the command to start is missing; for example: {_EXAMPLE}")
        name, found, rest = context.command.resolve_command(context, words)
        if found is None or found is command:
            raise UserError(f"launch: cannot start itself; give another command, for example: {_EXAMPLE}")
        context = _context(found, name, rest, context)
        words = rest
    return context.params


def _context(found: click.Command, name: str | None, words: list[str], parent: click.Context) -> click.Context:
    """A command's options are read, a group waits for the command in it."""
    if isinstance(found, click.Group):
        return click.Context(found, info_name=name, parent=parent)
    return found.make_context(name, words, parent=parent)


def _networks_here(hosts: Sequence[Host]) -> dict[str, str] | None:
    """Those that an interface must be of; None where all ranks are on other hosts, or none is known."""
    if hosts and not any(is_this_machine(host.name) for host in hosts):
        return None
    from mpi_spp.instruments.doctor.interfaces import networks_here

    return networks_here() or None


def _debugging(rank: int | None, port: int, num_ranks: int) -> dict[str, str]:
    if rank is None:
        return {}
    if rank >= num_ranks:
        raise UserError(f"--debug-rank: {rank} is not there; the {num_ranks} ranks are 0 to {num_ranks - 1}")
    return debug_variables(rank, port)


def _print(request: LaunchRequest, json: str | None) -> None:
    argv, environment = mpirun_line(request, find_launcher())
    write_json(json, {"argv": argv, "environment": environment})
    if json != "-":
        print(*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(argv))


def _start(request: LaunchRequest, only_here: Mapping[str, str], is_server: bool) -> NoReturn:
    """Run mpirun and stay beside it."""
    launcher = find_launcher()
    require_same_mpi(launcher)
    require_hosts(request.hosts, launcher)
    signs = {sign.VARIABLE: sign.new_sign()}  # of rank 0's end
    may_lose_host = not all(is_this_machine(host.name) for host in request.hosts)
    if terminals := [str(number) for number in (1, 2) if os.isatty(number)]:
        from mpi_spp.instruments.report.tables import SHOWN_ON_TERMINAL

        signs[SHOWN_ON_TERMINAL] = ",".join(terminals)
    command = (*request.command, *keep_for_rank_0(only_here))
    argv, environment = mpirun_line(replace(request, command=command, exports={**request.exports, **signs}), launcher)
    sys.stdout.flush()
    try:
        told = {**os.environ, **environment}
        sys.exit(run_guarded(argv, told, signs[sign.VARIABLE], may_lose_host, is_server=is_server))
    except OSError as error:
        raise UserError(
            f"{argv[0]}: cannot be started ({error.strerror}); name a working mpirun in MPI_SPP_MPIRUN"
        ) from None
