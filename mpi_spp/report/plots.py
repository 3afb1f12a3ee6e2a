"""Pictures: refused before the work if they could not be drawn after it."""

import importlib.util
from pathlib import Path

from mpi_spp.errors import UserError

SUFFIXES = (".png", ".svg")


def require_plots(path: str, option: str) -> None:
    """Raise UserError, naming the option, unless a picture can be drawn to this path."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{option}: {path} has to end in {' or '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{option}: matplotlib is not installed; pip install 'mpi-spp[plots]'")
