"""A model that is nothing but its shape: what forecasts need."""

from pathlib import Path

import pytest

from mpi_spp.model.config import ModelConfig


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
