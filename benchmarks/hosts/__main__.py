"""Try a command on several hosts without having them.

    sudo .venv/bin/python -m benchmarks.hosts [--hosts 3] [--mbit 1000] -- COMMAND...

runs it on the first; `{hostfile}` in it becomes the path of a hostfile that names them all, with one rank each.
"""

import subprocess
import sys

import click

from benchmarks.hosts.network import network
from mpi_spp.errors import UserError


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--hosts", "count", type=click.IntRange(1, 250), default=3, show_default=True)
@click.option("--mbit", type=click.FloatRange(min=0.1), help="Mbit/s of every link, both ways.  [default: no limit]")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
def main(count: int, mbit: float | None, command: tuple[str, ...]) -> None:
    """Run a command on the first of several hosts; {hostfile} in it becomes the path of a hostfile."""
    try:
        with network(count) as made:
            made.shape(None if mbit is None else mbit * 1e6)
            words = [word.replace("{hostfile}", str(made.hostfile)) for word in command]
            sys.exit(subprocess.run(made.hosts[0].line(*words)).returncode)
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
