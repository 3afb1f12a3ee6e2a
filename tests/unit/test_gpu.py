"""On a GPU: the same tokens as on the CPU, and staging through pinned memory. Skipped where there is none."""

from pathlib import Path

import pytest
import reference_models
import torch

from mpi_spp.comm.buffers import ThroughHost
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import read_config
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage, whole_layers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def stage_on_gpu(directory: Path) -> Stage:
    config = read_config(directory)
    layers, vocabulary = whole_layers(range(config.num_hidden_layers)), range(config.vocab_size)
    device = torch.device("cuda", 0)
    return load_stage(Checkpoint(directory), config, layers, vocabulary, torch.float32, device, Plain())


def greedy(stage: Stage, prompt_ids: list[int], new_tokens: int) -> list[int]:
    cache = stage.new_cache(range(stage.config.num_hidden_layers), len(prompt_ids) + new_tokens)
    batch = one_span(range(len(prompt_ids)), cache, len(prompt_ids))
    hidden = stage.forward(stage.embed(torch.tensor(prompt_ids)), batch, cache.layers)
    tokens: list[int] = []
    while len(tokens) < new_tokens:
        tokens.append(int(stage.logits(hidden[-1:]).argmax()))
        position = len(prompt_ids) + len(tokens) - 1
        step = one_span(range(position, position + 1), cache, position + 1)
        hidden = stage.forward(stage.embed(torch.tensor(tokens[-1:])), step, cache.layers)
    return tokens


def test_tokens() -> None:
    directory = reference_models.build_reference_models()
    for name in reference_models.RECIPES:
        tokens = greedy(
            stage_on_gpu(directory / name), reference_models.prompt_of(name, 37), reference_models.NEW_TOKENS
        )
        assert tokens == reference_models.reference_tokens(directory, name, 37), name


def test_staging() -> None:
    staging = ThroughHost(pin_memory=True)
    values = torch.randn(1000, 1000, dtype=torch.bfloat16, device="cuda")
    outgoing = staging.outgoing(values * 2)
    assert outgoing.is_pinned() and torch.equal(outgoing, (values * 2).cpu())
    incoming, finish = staging.incoming(values, read_too=False)
    incoming.fill_(3.0)
    assert finish is not None
    finish()
    assert bool((values == 3.0).all())
