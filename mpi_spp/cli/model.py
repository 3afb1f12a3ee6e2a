"""`mpi-spp model`: the models on this machine."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from mpi_spp.model import store
from mpi_spp.model.gguf import DTYPES, Progress, convert


@click.group("model")
def command() -> None:
    """Get, list and convert models."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


@command.command("get")
@click.argument("name")
@as_json
def get(name: str, as_json: bool) -> None:
    """Put the model NAME (see 'mpi-spp model list') into the store; at once when it is there."""
    with _shown_progress() as progress:
        path = store.get(name, progress)
    _print_result({"name": name, "path": str(path)}, str(path), as_json)


@command.command("list")
@as_json
def list_models(as_json: bool) -> None:
    """List the models of the store, and those that 'mpi-spp model get' knows."""
    stored: list[dict[str, Any]] = [
        {"name": name, "path": str(store.store_path(name)), "bytes": store.model_size(name)}
        for name in store.stored_models()
    ]
    available = [
        {"name": name, "source": source.requirement, "summary": source.summary}
        for name, source in store.CATALOGUE.items()
        if not store.is_stored(name)
    ]
    lines = [f"stored     {model['name']}  {model['bytes'] / 1e6:.0f} MB  {model['path']}" for model in stored]
    lines += [f"available  {model['name']}  {model['summary']}" for model in available]
    _print_result({"stored": stored, "available": available}, "\n".join(lines), as_json)


@command.command("convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Of the weights.")
@as_json
def convert_gguf(file: Path, directory: Path, dtype: str, as_json: bool) -> None:
    """Convert the GGUF FILE to a new Hugging Face model DIRECTORY with safetensors."""
    with _shown_progress() as progress:
        convert(file, directory, dtype, progress)
    _print_result({"path": str(directory), "dtype": dtype}, str(directory), as_json)


def _print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(result) if as_json else text)


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, else one line a step."""
    shown = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        yield shown
    finally:
        shown.close()


class _Lines:
    """One line for each step."""

    def __init__(self) -> None:
        self._step = ""
        self._file = sys.stderr  # the conversion redirects sys.stderr while it uses noisy libraries

    def __call__(self, step: str, done: float) -> None:
        if step != self._step:
            print(step, file=self._file, flush=True)
        self._step = step

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """A bar for each step."""

    def __init__(self) -> None:
        self._step = ""
        self._file = sys.stderr
        self._bar: tqdm[Any] | None = None

    def __call__(self, step: str, done: float) -> None:
        if step != self._step:
            self.close()
            self._step = step
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
            self._bar = tqdm(total=1.0, desc=step, bar_format=form, file=self._file)
        assert self._bar is not None
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
