"""`mpi-spp run`: a Python script of one's own on every rank, with `from mpi_spp import LLM`."""

import runpy
import sys
from pathlib import Path

import click

from mpi_spp.cli._options import File


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("script", type=File(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(script: Path, arguments: tuple[str, ...]) -> None:
    """Run a Python SCRIPT on every rank: mpi-spp launch -np 3 -- run script.py

    What the user can mend is one line from one rank and status 2, as for every command; any other error ends all ranks.
    The script sees its own ARGUMENTS, and may import what lies beside it. See docs/python.md.
    """
    from mpi_spp.system.files import read_text

    read_text(f"SCRIPT: {script}", script)  # what cannot be read is said in a line
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")
