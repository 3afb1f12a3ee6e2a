"""`mpi-spp launch --scheduler slurm`: the options that Slurm needs, under Slurm's names."""

import sys
from dataclasses import fields
from typing import Any

import click

from mpi_spp.cli._options import together
from mpi_spp.cli._output import write_json
from mpi_spp.config import option_name
from mpi_spp.errors import UserError
from mpi_spp.launch import slurm
from mpi_spp.launch.hostfile import MOST_RANKS
from mpi_spp.launch.line import LaunchRequest

slurm_options = together(
    click.option(
        "--scheduler",
        type=click.Choice(["slurm"]),
        help="Submit the command as a job of this batch system; --dry-run: print the job's script.",
    ),
    click.option(
        "--nodes", type=click.IntRange(1, MOST_RANKS), help="With --scheduler: nodes of the job.  [default: 1]"
    ),
    click.option("--time", help="With --scheduler: time limit, such as 30 (minutes) or 02:00:00."),
    click.option("--partition", help="With --scheduler: the partition to run in."),
    click.option("--account", help="With --scheduler: the account to charge."),
    click.option("--gpus-per-node", type=click.IntRange(1, MOST_RANKS), help="With --scheduler: GPUs of each node."),
    click.option(
        "--mpi", default=slurm.Allocation.mpi, show_default=True, help="With --scheduler: srun's --mpi (MPICH: pmi2)."
    ),
)


def allocation_of(options: dict[str, Any], gpu_ids: tuple[int, ...]) -> slurm.Allocation | None:
    """What Slurm is asked for; None where it is not asked. `options`: all of `slurm_options`, by name."""
    if options.pop("scheduler") is None:
        given = [field.name for field in fields(slurm.Allocation) if options[field.name] != field.default]
        if given:
            raise UserError(f"{option_name(given[0])}: is for a batch system; give --scheduler slurm too")
        return None
    if gpu_ids:
        raise UserError("--gpu-ids: Slurm numbers the GPUs of a job itself; give --gpus-per-node")
    return slurm.Allocation(**options)


def print_or_submit(asked: slurm.Allocation, request: LaunchRequest, dry_run: bool, json: str | None) -> None:
    """Print the script, or submit it and end with sbatch's status."""
    script = slurm.batch_script(request, asked)
    if not dry_run:
        sys.exit(slurm.submit(script))
    write_json(json, {"argv": ["sbatch"], "environment": {}, "script": script})
    if json != "-":
        print(script, end="")
