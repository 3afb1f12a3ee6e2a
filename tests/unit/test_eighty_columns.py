"""What a person reads on a terminal fits 80 columns: every command's help. See also test_tables.py."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mpi_spp.cli import commands

COLUMNS, BIN = 80, Path(__file__).parents[2] / "bin"


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


def test_what_the_scripts_say() -> None:
    """What every quickstart shows; an error may be longer."""
    said = [
        line for name in ("_setup.sh", "quickstart") for line in re.findall(r'say "(.*)"', (BIN / name).read_text())
    ]
    said = [
        line.replace("$extras", "gguf,openmpi") for line in said if "error" not in line and "does not work" not in line
    ]
    assert len(said) > 4 and [line for line in said if len(f"quickstart: {line}") > COLUMNS] == []
