"""Pictures: refused before the work if they could not be drawn after it."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi_spp.errors import UserError
from mpi_spp.system.outputs import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def require_plots(path: str | Path, option: str, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Raise UserError, naming the option, unless a picture can be drawn to this path."""
    if Path(path).suffix not in suffixes:
        raise UserError(f"{option}: {path} has to end in {' or '.join(suffixes)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{option}: matplotlib is not installed; pip install 'mpi-spp[plots]'")


def save(figure: Figure, option: str, path: str | Path, **settings: Any) -> None:
    """The whole picture, or nothing. Raises UserError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix.removeprefix("."), **settings)
    with written(option, path) as file:
        file.write(drawn.getvalue())
