"""Finds the directory of a model: a path, a model of the local store, or a name on the Hugging Face hub."""

import os
import re
from pathlib import Path

from mpi_spp.errors import UserError
from mpi_spp.model import store

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # no pickled weights


def locate(model: str, download: bool) -> Path:
    """The directory of `--model`. A hub name is looked up in the hub's local cache, and fetched when `download`."""
    if not model:
        raise UserError("--model: the name is empty; give a directory, a model of the store or a hub name")
    directory = Path(os.path.expanduser(model))  # leaves the name of an unknown user as it is
    if directory.is_dir():
        return directory
    if directory.exists():
        raise UserError(f"--model: {model} is a file; give the directory that holds config.json and *.safetensors")
    if "/" not in model and store.is_stored(model):
        return store.store_path(model)
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise UserError(
            f"--model: {model} is neither a directory, a model of the store (`mpi-spp model list`), nor a hub name"
        )
    return _from_hub(model, download)


def _from_hub(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=not download, etag_timeout=5))
    except Exception as error:  # network, name, rights: the hub's client has dozens of kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--model: {name} is no directory and cannot be had from the hub ({reason})") from None
