"""Tables for people, which fit 80 columns: what is too long for its column goes on below, and nothing is cut."""

import os
import sys
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

_FEWEST, _MOST = 20, 1000  # columns: a figure that is none of a terminal asks for a table of any width


def console(file: TextIO) -> Console:
    """Where a table is printed, as wide as the terminal, $COLUMNS, or 80 columns."""
    columns = os.environ.get("COLUMNS", "")
    known = columns.isascii() and columns.isdecimal() and _FEWEST <= int(columns[:9]) <= _MOST
    return Console(file=file, width=int(columns) if known else None if file.isatty() else 80)


def reports() -> Console:
    """Standard error."""
    return console(sys.stderr)


def table(*columns: str, title: str | None = None, numbers: int = 0) -> Table:
    """An empty one. `numbers`: so many of the last columns are right-aligned."""
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    made.caption_justify = "left"
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place >= len(columns) - numbers else "left", overflow="fold")
    return made
