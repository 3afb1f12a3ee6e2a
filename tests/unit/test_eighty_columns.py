"""What a person reads on a terminal fits 80 columns: every command's help, and the lines that are not tables."""

import io
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mpi_spp.cli import commands
from mpi_spp.instruments.report.tables import tell

COLUMNS = 80


def all_commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from all_commands(below, (*words, name))


@pytest.mark.parametrize("words", list(all_commands(commands)), ids=" ".join)
def test_help(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    text = CliRunner().invoke(commands, [*words, "--help"], prog_name="mpi-spp").output
    assert text.startswith("Usage: ")
    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []


def test_sentences_go_on_below_and_paths_stay_whole() -> None:
    shown, path = io.StringIO(), "/" + "p" * 100
    tell(f"mpi-spp: {path}: " + "word " * 40, shown)
    tell("word " * 30, shown, indent=4)
    lines = shown.getvalue().splitlines()
    assert [len(line) > COLUMNS for line in lines].count(True) == 1 and any(path in line for line in lines)
    assert " ".join(shown.getvalue().split()).startswith(f"mpi-spp: {path}: word word")
    assert lines[-1].startswith("    word")
