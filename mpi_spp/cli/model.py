"""`mpi-spp model`: the models on this machine."""

import sys
from pathlib import Path
from typing import Any

import click

from mpi_spp.cli._options import File, json_option
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.model.loading import hub as store
from mpi_spp.model.loading.gguf import DTYPES, convert
from mpi_spp.system.outputs import require_name
from mpi_spp.system.progress import Steps

_INDENT = 11  # of what is said of a model below its name


@click.group("model")
def command() -> None:
    """Get, list and convert models."""


_json = json_option("Write the result to this file;")


@command.command("get")
@click.argument("name")
@_json
def get(name: str, json: str | None) -> None:
    """Put the model NAME (see 'mpi-spp model list') into the store; at once when it is there."""
    check_outputs(json)
    with Steps() as progress:
        path = store.get(name, progress)
    _print_result({"name": name, "path": str(path)}, str(path), json)


@command.command("list")
@_json
def list_models(json: str | None) -> None:
    """List the models of the store, and those that 'mpi-spp model get' knows."""
    check_outputs(json)
    stored: list[dict[str, Any]] = [
        {"name": name, "path": str(store.store_path(name)), "bytes": store.model_size(name)}
        for name in store.stored_models()
    ]
    available = [
        {"name": name, "source": source.requirement, "summary": source.summary}
        for name, source in store.CATALOGUE.items()
        if not store.is_stored(name)
    ]
    rows = [("stored", model["name"], f"{model['bytes'] / 1e6:.0f} MB, {model['path']}") for model in stored]
    rows += [("available", model["name"], model["summary"]) for model in available]
    if json != "-":
        from mpi_spp.instruments.report.tables import tell

        for state, name, note in rows:
            tell(f"{state:{_INDENT}}{name}", sys.stdout)
            tell(note, sys.stdout, indent=_INDENT)
    write_json(json, {"stored": stored, "available": available})


@command.command("convert")
@click.argument("file", type=File(path_type=Path))
@click.argument("directory", type=File(path_type=Path))
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Of the weights.")
@_json
def convert_gguf(file: Path, directory: Path, dtype: str, json: str | None) -> None:
    """Convert the GGUF FILE to a new Hugging Face model DIRECTORY with safetensors."""
    require_name("DIRECTORY", directory)
    check_outputs(json, {"FILE": file})
    with Steps() as progress:
        convert(file, directory, dtype, progress)
    _print_result({"path": str(directory), "dtype": dtype}, str(directory), json)


def _print_result(result: dict[str, Any], text: str, json: str | None) -> None:
    if json != "-":
        click.echo(text)
    write_json(json, result)
