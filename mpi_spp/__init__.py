"""Run a Hugging Face decoder language model over MPI ranks, on CPUs and GPUs."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from mpi_spp.system.lesser_cpu import believe

if TYPE_CHECKING:
    from mpi_spp.entrypoints.llm import LLM, Completion, SamplingParams
    from mpi_spp.errors import UserError

__all__ = ["LLM", "Completion", "SamplingParams", "UserError"]
__version__ = "0.1.0"

os.environ.update(believe())  # torch looks when it is loaded, which is later

_FACE = ("LLM", "Completion", "SamplingParams")
_HOMES = dict.fromkeys(_FACE, "entrypoints.llm") | {"UserError": "errors"}


def __getattr__(name: str) -> Any:
    """Load what is asked for, and torch with it, no earlier than that."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mpi_spp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mpi_spp.{_HOMES[name]}"), name)
