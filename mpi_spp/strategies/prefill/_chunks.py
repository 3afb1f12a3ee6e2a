"""How a chunk of a prompt goes through a stage of layers."""

import torch

from mpi_spp.model.batch import Batch, one_span
from mpi_spp.model.shard import Shard
from mpi_spp.strategies.prefill._job import PrefillJob, Prompt
from mpi_spp.system.timed import timed


def whole(job: PrefillJob, prompt: Prompt, number: int, tick: int, hidden: torch.Tensor) -> torch.Tensor:
    """Take a chunk through this rank's layers; its tokens see what this rank's cache has."""
    batch = one_span(prompt.chunks[number], prompt.cache, len(prompt))
    return forward(job, number, tick, hidden, batch, job.shard)


def forward(job: PrefillJob, number: int, tick: int, hidden: torch.Tensor, batch: Batch, shard: Shard) -> torch.Tensor:
    """Run this rank's layers on hidden states of a chunk, in place."""

    def after_layer(layer: int) -> None:
        job.exchange.reached(tick, layer - job.layers.start + 1)

    tokens, first = sum(len(span.rows) for span in batch.spans), batch.spans[0].start
    with timed("chunk", number, tick=tick, tokens=tokens, first_token=first):
        return job.stage.forward(hidden, batch, job.layers, shard, after_layer)
