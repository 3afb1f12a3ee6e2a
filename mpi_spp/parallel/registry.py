"""Strategies found by file name: a new file in `prefill`, `sync` or `decode` needs no other edit."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from mpi_spp.errors import UserError

VERBS = ("prefill", "sync", "decode")


def choices(verb: str) -> list[str]:
    """The names of a verb's strategies, without importing them. `verb`: one of VERBS."""
    return list(_names(tuple(importlib.import_module(f"mpi_spp.strategies.{verb}").__path__)))


def load(verb: str, name: str) -> ModuleType:
    """The module of one strategy. Raises UserError for a name without a file."""
    if name not in choices(verb):
        raise UserError(f"{verb} strategy {name!r} is unknown; choose one of {', '.join(choices(verb))}")
    return importlib.import_module(f"mpi_spp.strategies.{verb}.{name}")


@cache  # who looks at all combinations asks often
def _names(folders: tuple[str, ...]) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))
