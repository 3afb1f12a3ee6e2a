"""Results as JSON: refused before the work if they could not be kept after it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from mpi_spp.comm.environment import launched_size
from mpi_spp.errors import UserError


def check_writable(path: str | None, option: str = "--json") -> None:
    """Raise UserError when an option names a file that cannot be written."""
    if path in (None, "-"):
        return
    file = Path(str(path))
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"{option}: {file} cannot be written; give a file in a directory that you may write to")


def may_share_terminal() -> bool:
    """Whether standard output may be on the terminal where standard error is too: a launcher hides where they go."""
    return sys.stdout.isatty() or launched_size() > 1


def write_json(path: str | None, value: dict[str, Any]) -> None:
    """Write what `--json` asked for: to a file, to standard output for "-", nowhere for None."""
    text = json.dumps(value, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    elif path is not None:
        Path(path).write_text(text, encoding="utf-8")
