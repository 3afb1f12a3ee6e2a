"""Finds the directory of a model: a path, a model of the local store, or a name on the Hugging Face hub."""

import glob
import os
import re
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.model.loading import hub as store
from mpi_spp.model.loading.index import INDEX, SINGLE, read_index

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TEXTS = ["*.json", "*.model", "*.txt", "*.jinja"]  # configuration, tokenizer and template; no pickled weights


def locate(model: str, download: bool) -> Path:
    """The directory of `--model`. A hub name is looked up in the hub's local cache, and fetched when `download`."""
    if not model:
        raise UserError("--model: the name is empty; give a directory, a model of the store or a hub name")
    directory = Path(os.path.expanduser(model))  # leaves the name of an unknown user as it is
    if os.path.isdir(directory):  # which says no to a name that is too long, where Path raises
        return directory
    if os.path.exists(directory):
        raise UserError(f"--model: {model} is a file; give the directory that holds config.json and *.safetensors")
    if "/" not in model and store.is_stored(model):
        return store.store_path(model)
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise UserError(
            f"--model: {model} is neither a directory, a model of the store (`mpi-spp model list`), nor a hub name"
        )
    return _from_hub(model, download)


def _from_hub(name: str, download: bool) -> Path:
    try:
        return _snapshot(name, download)
    except UserError:
        raise
    except Exception as error:  # network, name, rights: the hub's client has dozens of kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--model: {name} is no directory and cannot be had from the hub ({reason})") from None


def _snapshot(name: str, download: bool) -> Path:
    """What a run reads of a repository: texts at its top, and one file of weights or the shards that its index names.

    Others hold the same weights once more, in other formats or dtypes, or are adapters.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"local_files_only": not download, "etag_timeout": 5}
    found = Path(snapshot_download(name, allow_patterns=[*_TEXTS, SINGLE], ignore_patterns=["*/*"], **options))
    if download and not (found / SINGLE).is_file() and (found / INDEX).is_file():
        shards = [glob.escape(file) for file in sorted(set(read_index(found).values()))]
        snapshot_download(
            name, revision=found.name, allow_patterns=shards, **options
        )  # the folder is named by its commit
    return found
