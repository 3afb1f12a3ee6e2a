"""Tables for people: see mpi_spp/instruments/report/tables.py."""

import io

import pytest

from mpi_spp.instruments.report.tables import console, table, tables_of, tell


def lines_of(*made: object) -> list[str]:
    shown = io.StringIO()
    printed = console(shown)
    for one in made:
        printed.print(one)
    return shown.getvalue().splitlines()


def test_what_is_too_long_goes_on_below_and_nothing_is_cut() -> None:
    made = table("rank", "host", "threads", title="[three] ranks of :host:", wraps=["host"])
    made.add_row("0", "a-host-with-a-long-name." * 8, "9" * 20)
    lines = lines_of(made)
    assert max(map(len, lines)) <= 80 and "[three] ranks of :host:" in lines[1]
    together = "".join("".join(line[5:58].split()) for line in lines[4:])
    assert together.startswith("a-host-with-a-long-name.a-host") and together.count("name.") == 8
    assert "9" * 20 in lines[4] and "threads" in lines[2]


def test_more_columns_than_fit_are_tables_below() -> None:
    columns = ["message", *(f"rank {rank}" for rank in range(30))]
    lines = lines_of(*tables_of(columns, [["1 KiB", *map(str, range(1000, 1030))]], "seconds", 80))
    assert max(map(len, lines)) <= 80
    figures = " ".join(line for line in lines if "1 KiB" in line).replace("1 KiB", "").split()
    assert figures == [str(figure) for figure in range(1000, 1030)]


@pytest.mark.parametrize(
    "columns, width",
    [("120", 120), ("", 80), ("0", 80), ("-5", 80), ("3", 80), ("9" * 5000, 80), ("²", 80), ("1e3", 80), ("nan", 80)],
)
def test_the_width(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert console(io.StringIO()).width == width


class Terminal(io.StringIO):
    """As standard output on one."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


def test_sentences_go_on_below_on_a_terminal_and_paths_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    shown, kept, path = Terminal(), io.StringIO(), "/" + "p" * 100
    for file in (shown, kept):
        tell(f"mpi-spp: {path}: " + "word " * 40, file)
        tell("word " * 30, file, indent=4)
    lines = shown.getvalue().splitlines()
    assert [line for line in lines if len(line) > 80] == [f"  {path}:"]
    assert lines[-1].startswith("    word") and len(kept.getvalue().splitlines()) == 2
    assert shown.getvalue().split() == kept.getvalue().split()


@pytest.mark.parametrize(
    "variables, colors",
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "3", "MPI_SPP_TERMINAL": "1,2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "3", "MPI_SPP_TERMINAL": "2"}, False),
        ({"PMI_SIZE": "3"}, True),
    ],
    ids=str,
)
def test_colors_are_for_terminals(variables: dict[str, str], colors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the one that Open MPI gives its ranks may be a file in the end."""
    for name in ("NO_COLOR", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_SPP_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    for shown, has_colors in ((Terminal(), colors), (io.StringIO(), False)):
        console(shown, markup=True).print("[bold red]failure[/]")
        assert ("\x1b[" in shown.getvalue()) == has_colors and "failure" in shown.getvalue()
