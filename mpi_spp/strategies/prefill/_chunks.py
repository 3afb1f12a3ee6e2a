"""The prompt's chunks stream through the stages of layers; one stage is a stream of one."""

from collections.abc import Callable

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.model.batch import Batch, one_span
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.rounds import ALL_LAYERS
from mpi_spp.strategies.prefill._job import PrefillJob
from mpi_spp.system.timed import timed

Compute = Callable[[PrefillJob, int, int, torch.Tensor], torch.Tensor]


def whole(job: PrefillJob, tick: int, number: int, hidden: torch.Tensor) -> torch.Tensor:
    """Take a chunk, in this tick, through this rank's layers; its tokens see what this rank's cache has."""
    return forward(job, tick, number, hidden, one_span(job.chunks[number], job.cache, len(job.prompt_ids)), job.shard)


def stream(job: PrefillJob, compute: Compute = whole) -> torch.Tensor:
    """Run the chunks through the stages; while a later stage runs chunk c, this one runs c + 1.

    Where the ranks of a stage split the tokens, each has and hands on the hidden states of its own.
    Returns the last token's hidden state [1, hidden_size] on the ranks of the last stage; on the others what they made
    of it.
    """
    stage, comm, place, chunks = job.stage, job.comm, job.place, job.chunks
    sends: list[Request] = []
    hidden = stage.hidden_like(0)
    arriving = _expect(job, 0)
    for tick in range(len(chunks) + place.num_stages - 1):
        number = tick - place.stage
        if 0 <= number < len(chunks):
            inputs = _arrived(job, number, arriving)
            arriving = _expect(job, number + 1)
            hidden = compute(job, tick, number, inputs)
            job.progress.advance(len(chunks[number]))
            if place.stage + 1 < place.num_stages:
                sends.append(comm.isend(hidden, comm.rank + place.stage_size))
            sends = [send for send in sends if not send.test()]
        job.exchange.reached(tick, ALL_LAYERS)
    job.progress.close()
    for send in sends:
        comm.wait(send, meanwhile=job.exchange.test)
    return _last(job, hidden)


def forward(job: PrefillJob, tick: int, number: int, hidden: torch.Tensor, batch: Batch, shard: Shard) -> torch.Tensor:
    """Run this rank's layers on hidden states of a chunk, in place."""

    def after_layer(layer: int) -> None:
        job.exchange.reached(tick, layer - job.layers.start + 1)

    tokens, first = sum(len(span.rows) for span in batch.spans), batch.spans[0].start
    with timed("chunk", number, tick=tick, tokens=tokens, first_token=first):
        return job.stage.forward(hidden, batch, job.layers, shard, after_layer)


def _expect(job: PrefillJob, number: int) -> tuple[torch.Tensor, Request] | None:
    """Post the receive of a chunk's hidden states before they are needed; the first stage embeds its own."""
    if job.place.stage == 0 or number >= len(job.chunks):
        return None
    hidden = job.stage.hidden_like(sum(map(len, job.own(number))))
    return hidden, job.comm.irecv(hidden, job.comm.rank - job.place.stage_size)


def _arrived(job: PrefillJob, number: int, arriving: tuple[torch.Tensor, Request] | None) -> torch.Tensor:
    """The hidden states [own tokens, hidden_size] that enter this stage for a chunk."""
    if arriving is None:
        return job.stage.embed(
            torch.cat([job.prompt_ids[:0], *(job.prompt_ids[one.start : one.stop] for one in job.own(number))])
        )
    hidden, request = arriving
    job.comm.wait(request, meanwhile=job.exchange.test)
    return hidden


def _last(job: PrefillJob, hidden: torch.Tensor) -> torch.Tensor:
    """The last token's hidden state [1, hidden_size] on all ranks of a stage; `hidden`: of each one's own tokens."""
    owner = next(part for part, held in enumerate(job.positions) if held and held[-1].stop == len(job.prompt_ids))
    if job.place.part != owner:
        row = job.stage.hidden_like(1)
    elif job.shard.exchange is None:
        row = hidden[-1:].clone()
    else:
        row = job.shard.exchange.last(hidden, sum(map(len, job.in_part(len(job.chunks) - 1))))
    if job.parts.size > 1:
        job.parts.broadcast(row, root=owner)
    return row
