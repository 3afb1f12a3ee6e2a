"""Tables for people, which fit 80 columns: what is too long goes on below, or in a table below; nothing is cut."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

_FEWEST, _MOST, _USUAL = 40, 1000, 80  # columns: a width that no terminal has is not believed
_GAP = 1  # between columns


def console(file: TextIO, markup: bool = False) -> Console:
    """Where tables are printed, as wide as the terminal or $COLUMNS. `markup`: brackets are rich's, not the text's."""
    columns = os.environ.get("COLUMNS", "")
    known = columns.isascii() and columns.isdecimal() and _FEWEST <= int(columns[:9]) <= _MOST
    width = int(columns) if known else _terminal_width(file)
    return Console(file=file, width=width, height=_USUAL, markup=markup, emoji=False, highlight=False)


def _terminal_width(file: TextIO) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns or _USUAL
    except (OSError, ValueError):  # no terminal, or no file
        return _USUAL


def reports() -> Console:
    """Standard error."""
    return console(sys.stderr)


def table(*columns: str, title: str | None = None, wraps: Collection[str] = (), numbers: bool = False) -> Table:
    """An empty one. `wraps`: columns whose cells go on in a next line first; `numbers`: all but the first are such."""
    made = Table(title=title and f"\n{title}", box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    made.caption_justify = "left"
    for place, column in enumerate(columns):
        made.add_column(
            column, no_wrap=column not in wraps, overflow="fold", justify="right" if numbers and place else "left"
        )
    return made


def tables_of(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int) -> Iterator[Table]:
    """Figures by name, the first column; the others in as many tables, one below the other, as they need."""
    of_columns = list(zip(columns, *rows, strict=True))
    widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in of_columns]
    first, rest = widths[0], list(range(1, len(columns)))
    while rest:
        count, used = 0, first
        while count < len(rest) and (count == 0 or used + _GAP + widths[rest[count]] <= width):
            used += _GAP + widths[rest[count]]
            count += 1
        shown, rest = [0, *rest[:count]], rest[count:]
        made = table(*(columns[place] for place in shown), title=title, numbers=True)
        for row in rows:
            made.add_row(*(row[place] for place in shown))
        yield made
