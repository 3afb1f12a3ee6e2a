"""What "auto" would come to in a run, told without starting one."""

from pathlib import Path

import torch

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.arithmetic import likely, products_of
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.device import choose_dtype
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import checkpoint_dtype


def likely_dtype(config: RunConfig, directory: Path, model: ModelConfig) -> torch.dtype:
    """As a run takes it; float32 where neither config.json nor a file's header says what the checkpoint is in."""
    of_checkpoint = model.dtype
    if of_checkpoint is None and config.dtype == "auto":
        try:
            of_checkpoint = checkpoint_dtype(Checkpoint(directory))
        except UserError:
            of_checkpoint = torch.float32
    return choose_dtype(config.dtype, of_checkpoint or torch.float32, torch.device("cpu"))


def likely_kernels(config: RunConfig, model: ModelConfig, dtype: torch.dtype, threads: int, directory: Path) -> str:
    """The back end that a run would take: what was measured as fastest, else the likeliest."""
    return likely(config.kernels, products_of(config, model, dtype, torch.device("cpu")), threads, directory)
