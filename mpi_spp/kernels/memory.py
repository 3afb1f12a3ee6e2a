"""What was measured on this machine, remembered in files."""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from mpi_spp.errors import UserError
from mpi_spp.kernels.native.library import sources_digest
from mpi_spp.system import cpu
from mpi_spp.system.files import read_json_object
from mpi_spp.system.outputs import write_text

log = logging.getLogger(__name__)


def measured_on(device: torch.device) -> str:
    """What figures depend on besides the model and the number of threads: the processor, torch and our own kernels.

    Virtual machines of one processor's name may have different instructions.
    """
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return (
        f"{cpu.name()} with {' '.join(cpu.instruction_sets())}, torch {torch.__version__}, kernels {sources_digest()}"
    )


def recall(memory: Path) -> dict[str, Any]:
    """What the file holds; nothing when it cannot be read, which costs a new measurement only."""
    try:
        return dict(read_json_object(str(memory), memory)) if memory.is_file() else {}
    except (OSError, UserError):
        return {}


def forget(directory: Path) -> list[str]:
    """Delete all that was measured or tried there; returns the files' names. Raises UserError where one has to stay.

    Kernels that were compiled stay: they are found by what they were made of.
    """
    found = sorted(directory.glob("*.json")) if directory.is_dir() else []
    for memory in found:
        try:
            memory.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{memory}: cannot be deleted ({error.strerror}); see whose it is") from None
    return [memory.name for memory in found]


def remember(memory: Path, known: dict[str, Any]) -> None:
    """Replace the file in one step, if it can be written: other runs may read it at this moment."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_text("what was measured", memory, json.dumps(known, indent=1))
    except (OSError, UserError) as error:
        log.info("measured again at the next start: %s", error)
