"""The prompt's chunks stream through the stages of layers; one stage is a stream of one."""

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.kv.rounds import ALL_LAYERS
from mpi_spp.model.batch import one_span
from mpi_spp.prefill._job import PrefillJob
from mpi_spp.report.timed import timed


def stream(job: PrefillJob) -> torch.Tensor:
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
            hidden = _compute(job, tick, number, inputs)
            job.progress.advance(len(chunks[number]))
            if place.stage + 1 < place.num_stages:
                sends.append(comm.isend(hidden, comm.rank + place.num_shards))
            sends = [send for send in sends if not send.test()]
        job.exchange.reached(tick, ALL_LAYERS)
    job.progress.close()
    for send in sends:
        comm.wait(send, meanwhile=job.exchange.test)
    exchange = job.shard.exchange
    return hidden[-1:] if exchange is None else exchange.last(hidden, len(chunks[-1]))


def _expect(job: PrefillJob, number: int) -> tuple[torch.Tensor, Request] | None:
    """Post the receive of a chunk's hidden states before they are needed; the first stage embeds its own."""
    if job.place.stage == 0 or number >= len(job.chunks):
        return None
    hidden = job.stage.hidden_like(len(_own(job, number)))
    return hidden, job.comm.irecv(hidden, job.comm.rank - job.place.num_shards)


def _arrived(job: PrefillJob, number: int, arriving: tuple[torch.Tensor, Request] | None) -> torch.Tensor:
    """The hidden states [tokens, hidden_size] that enter this stage for a chunk."""
    if arriving is None:
        own = _own(job, number)
        return job.stage.embed(job.prompt_ids[own.start : own.stop])
    hidden, request = arriving
    job.comm.wait(request, meanwhile=job.exchange.test)
    return hidden


def _own(job: PrefillJob, number: int) -> range:
    """The positions of a chunk whose hidden states this rank has."""
    chunk, exchange = job.chunks[number], job.shard.exchange
    if exchange is None:
        return chunk
    rows = exchange.rows(len(chunk))
    return range(chunk.start + rows.start, chunk.start + rows.stop)


def _compute(job: PrefillJob, tick: int, number: int, hidden: torch.Tensor) -> torch.Tensor:
    chunk, first = job.chunks[number], job.layers.start

    def after_layer(layer: int) -> None:
        job.exchange.reached(tick, layer - first + 1)

    with timed("chunk", number, tick=tick, tokens=len(chunk), first_token=chunk.start):
        batch = one_span(chunk, job.cache, len(job.prompt_ids))
        return job.stage.forward(hidden, batch, job.layers, job.shard, after_layer)
