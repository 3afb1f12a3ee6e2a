"""Tables for people, which fit 80 columns: what is too long goes on below, or in a table below; nothing is cut."""

import os
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

_FEWEST, _MOST, _USUAL = 40, 1000, 80  # columns: a width that no terminal has is not believed
_GAP = 1  # between columns
# Ranks have a terminal, or none, wherever their output goes in the end, so only who has started them can tell: by the
# numbers of the descriptors that are on one.
SHOWN_ON_TERMINAL = "MPI_SPP_TERMINAL"
_OF_OPEN_MPI = "OMPI_COMM_WORLD_SIZE"


def console(file: TextIO, markup: bool = False) -> Console:
    """Where tables are printed, as wide as the terminal or $COLUMNS. `markup`: brackets are rich's, not the text's."""
    columns = os.environ.get("COLUMNS", "")
    known = columns.isascii() and columns.isdecimal() and _FEWEST <= int(columns[:9]) <= _MOST
    width = int(columns) if known else _terminal_width(file)
    colors = "auto" if _has_colors(file) else None
    settings: dict[str, Any] = {"markup": markup, "emoji": False, "highlight": False, "color_system": colors}
    return Console(file=file, width=width, height=_USUAL, **settings)


def _has_colors(file: TextIO) -> bool:
    """Whether it is shown on a terminal that knows them, and nobody wants none."""
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return is_wanted and file.isatty() and _is_on_terminal(file)


def _is_on_terminal(file: TextIO) -> bool:
    told = os.environ.get(SHOWN_ON_TERMINAL)
    if told is None:
        return file.isatty() and _OF_OPEN_MPI not in os.environ
    try:
        return str(file.fileno()) in told.split(",")
    except (OSError, ValueError):  # no file
        return False


def _terminal_width(file: TextIO) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns or _USUAL
    except (OSError, ValueError):  # no terminal, or no file
        return _USUAL


def reports() -> Console:
    """Standard error."""
    return console(sys.stderr)


def tell(text: str, file: TextIO, indent: int | None = None) -> None:
    """Print a sentence, on a terminal in as many lines as it needs; paths and other long words stay whole.

    `indent`: columns before each line; None: two before those that go on. A file has it in one line, to be searched.
    """
    if not _is_on_terminal(file):
        print(" " * (indent or 0) + text, file=file, flush=True)
        return
    settings: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    first, rest = ("", "  ") if indent is None else (" " * indent, " " * indent)
    lines = textwrap.wrap(text, console(file).width, initial_indent=first, subsequent_indent=rest, **settings)
    print("\n".join(lines), file=file, flush=True)


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
