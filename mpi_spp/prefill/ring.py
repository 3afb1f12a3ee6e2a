"""Ring Attention prefill: the prompt's positions are split over the ranks, and keys and values go round them.

Every rank computes all layers of its own tokens: it needs the whole weights, but a part of the cache only. A long
prompt comes in chunks, each split over all ranks, which bounds the memory of what is computed on the way.
Source: Liu et al., 2023 (Ring Attention).
"""

from dataclasses import replace

import torch

from mpi_spp.kv.rounds import ALL_LAYERS
from mpi_spp.mesh import positions
from mpi_spp.model.batch import in_spans
from mpi_spp.partition import Ranges, within
from mpi_spp.prefill._chunks import stream
from mpi_spp.prefill._job import PrefillJob
from mpi_spp.prefill._ring import Ring
from mpi_spp.report.timed import timed

_SPAN = 512  # tokens that attend at once: between two of them transfers move on

place = positions


def prefill(job: PrefillJob) -> torch.Tensor:
    """Compute this rank's tokens of every chunk; returns the last one's hidden state [1, hidden_size] on all ranks."""
    if job.comm.size == 1:
        return stream(job)
    last = job.stage.hidden_like(1)
    for tick, chunk in enumerate(job.chunks):
        mine = within(job.positions[job.comm.rank], [chunk])
        if mine:
            last = _compute(job, tick, mine)[-1:].clone()
        else:
            _pass_on(job, tick)
        job.progress.advance(len(chunk))
        job.exchange.reached(tick, ALL_LAYERS)
    job.progress.close()
    final = len(job.prompt_ids) - 1
    owner = next(rank for rank, held in enumerate(job.positions) if held and held[-1].stop > final)
    job.comm.broadcast(last, root=owner)
    return last


def _compute(job: PrefillJob, tick: int, mine: Ranges) -> torch.Tensor:
    """The hidden states of this rank's tokens of a chunk."""
    token_ids = torch.cat([job.prompt_ids[some.start : some.stop] for some in mine])
    batch = in_spans(mine, job.cache, len(job.prompt_ids), _SPAN)
    shard = replace(job.shard, attend=Ring(job, job.chunks[tick]))

    def after_layer(layer: int) -> None:
        job.exchange.reached(tick, layer - job.layers.start + 1)

    with timed("chunk", tick, tick=tick, tokens=len(token_ids), first_token=mine[0].start):
        return job.stage.forward(job.stage.embed(token_ids), batch, job.layers, shard, after_layer)


def _pass_on(job: PrefillJob, tick: int) -> None:
    """Without a token of a chunk, as of one that has fewer tokens than there are ranks."""
    ring = Ring(job, job.chunks[tick])
    for layer in job.layers:
        shares = (job.stage.weights.layers[layer][share] for share in job.shard.shares)
        for part in (share.heads for share in shares if share.heads is not None):
            ring.pass_on(layer, part)
        job.exchange.reached(tick, layer - job.layers.start + 1)
