"""What a person reads on a terminal fits 80 columns: every command's help. See also test_tables.py."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mpi_spp.cli import commands

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
