"""A model that is nothing but its shape, as forecasts need it; the native kernels in all their forms."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from native_layers import FORMS, made

from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.trial import dtype_name_of
from mpi_spp.model.config import ModelConfig

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
from mpi_spp.system import cpu


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json alone: 8 layers, 8 heads and 4 for keys and values."""
    from transformers import LlamaConfig

    path = tmp_path_factory.mktemp("model")
    LlamaConfig(
        hidden_size=256, intermediate_size=1000, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=3001, max_position_embeddings=1 << 20, dtype="float32",
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="session")
def model(directory: Path) -> ModelConfig:
    from mpi_spp.model.config import read_config

    return read_config(directory)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{dtype_name_of(form[1])}")
def native(request: pytest.FixtureRequest) -> Native:
    name, dtype = request.param
    if missing := set(library.VARIANTS[name]) - cpu.features():
        pytest.skip(f"needs a CPU with {', '.join(sorted(missing))}")
    return made(name, dtype)


@pytest.fixture(scope="session")
def alone() -> "Communicator":
    """This process as the only rank."""
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import the_world

    return Communicator(the_world().mpi_comm.Dup())
