"""Every option that takes a number has a range, in every command: click's own, or that of RunConfig."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import click
import pytest

from mpi_spp.cli import commands
from mpi_spp.config import RunConfig, option_name
from mpi_spp.errors import UserError

BEYOND: dict[type, tuple[Any, ...]] = {
    click.types.IntParamType: (10**30, -(10**30)),
    click.types.FloatParamType: (-1e300, float("inf"), float("-inf"), float("nan")),
}
FIELDS = {field.name for field in dataclasses.fields(RunConfig)}


def options_of(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Parameter]]:
    """All of a command and of those below it, after its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options_of(below, (*words, name))
        return
    for parameter in command.params:
        yield " ".join((*words, parameter.opts[0])), parameter


NUMBERS = {
    name: option for name, option in options_of(commands) if isinstance(option.type, tuple(BEYOND)) and option.name
}

FILES = {name: option for name, option in options_of(commands) if isinstance(option.type, click.Path)}


def test_the_walk_finds_them() -> None:
    assert {"generate --top-p", "bench comm --rounds", "launch -np", "simulate --knee-percent"} <= NUMBERS.keys()
    assert {"batch --output", "ask --log-dir", "plan --hostfile"} <= FILES.keys()


@pytest.mark.parametrize("name, option", FILES.items(), ids=FILES)
def test_an_empty_name_is_no_file(name: str, option: click.Parameter) -> None:
    """Which would stand for the working directory."""
    with pytest.raises(click.BadParameter, match="an empty name"):
        option.type.convert("", option, None)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_all_use_is_refused_by_name(name: str) -> None:
    option = NUMBERS[name]
    (values,) = (values for kind, values in BEYOND.items() if isinstance(option.type, kind))
    if option.name in FIELDS and not isinstance(option.type, (click.IntRange, click.FloatRange)):
        for value in values:
            with pytest.raises(UserError, match=rf"^{option_name(str(option.name))}: "):
                RunConfig(model="m", **{"temperature": 1.0} | {str(option.name): value})
        return
    for value in values:
        with pytest.raises(click.BadParameter):
            option.type.convert(value, option, None)


@pytest.mark.parametrize(
    "name, values",
    [
        ("plan --link-gbit", ("1e-9", "1e9")),
        ("plan --inside-gbit", ("0", "1e9")),
        ("simulate --link-latency-us", ("1e-9", "1e9")),
        ("simulate --inside-latency-us", ("0", "1e9")),
        ("simulate --tflops", ("1e-9", "1e9")),
        ("simulate --memory-gb-per-s", ("1e-9", "1e9")),
        ("simulate --knee-percent", ("-1", "101")),
    ],
)
def test_what_no_machine_has_is_refused(name: str, values: tuple[str, ...]) -> None:
    """And what one has is taken: 100 kbit/s, and a second of latency by way of the moon."""
    for value in values:
        with pytest.raises(click.BadParameter, match="is not in the range"):
            NUMBERS[name].type.convert(value, None, None)
    for value in ("1e-4", "1e6") if "gbit" in name else ():
        assert NUMBERS[name].type.convert(value, None, None) == float(value)
