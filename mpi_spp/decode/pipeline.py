"""Pipelined decode: the layers stay split, and groups of sequences follow one another through the stages.

With as many groups as stages all of them work. One sequence keeps one stage at a time busy: that is what lets a model
run that no rank could hold.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.decode._job import DecodeJob, Growing, grow
from mpi_spp.mesh import stages
from mpi_spp.partition import split_evenly

place = stages

_Group = tuple[list[Growing], torch.Tensor]  # sequences, and the newest token of each


def decode(
    job: DecodeJob, sequences: Sequence[Growing], hidden: torch.Tensor
) -> Iterator[tuple[Sequence[Growing], torch.Tensor]]:
    """Yield sequences with their next tokens [sequences]. `hidden`: of their last tokens, [sequences, hidden_size].

    In a tick each stage computes one group, the last one's hidden states go to all ranks, which select its tokens
    together; then it may enter the first stage again.
    """
    tokens = job.select(sequences, hidden)
    yield sequences, tokens
    waiting = deque(_groups(sequences, tokens, job.place.num_stages))
    inside: deque[_Group | None] = deque([None] * job.place.num_stages)  # what is in each stage
    sends: list[Request] = []
    while waiting or any(inside):
        inside.appendleft(waiting.popleft() if waiting else None)
        inside.pop()
        hidden = _compute(job, inside[job.place.stage], sends)
        sends = [send for send in sends if not send.test()]
        if (leaving := inside[-1]) is not None:
            group, _ = leaving
            hidden = _from_last(job, hidden, len(group))
            grow(group)
            tokens = job.select(group, hidden)
            yield group, tokens
            waiting.extend(_groups(group, tokens, 1))
            inside[-1] = None
    for send in sends:
        job.comm.wait(send)


def _groups(sequences: Sequence[Growing], tokens: torch.Tensor, most: int) -> Iterator[_Group]:
    """Those that are not finished, in so many groups at most."""
    rows = [row for row, sequence in enumerate(sequences) if not sequence.finished]
    for part in split_evenly(len(rows), max(1, min(most, len(rows)))):
        chosen = rows[part.start : part.stop]
        if chosen:
            yield [sequences[row] for row in chosen], tokens[chosen]


def _compute(job: DecodeJob, group: _Group | None, sends: list[Request]) -> torch.Tensor:
    """Take a group through this rank's layers, and send it on; its hidden states [sequences, hidden_size]."""
    if group is None:
        return job.stage.hidden_like(0)
    (sequences, tokens), place, comm = group, job.place, job.comm
    if place.stage == 0:
        hidden = job.stage.embed(tokens)
    else:
        hidden = job.stage.hidden_like(len(sequences))
        comm.wait(comm.irecv(hidden, comm.rank - place.num_shards))
    job.forward(sequences, hidden)
    if place.stage + 1 < place.num_stages:
        sends.append(comm.isend(hidden, comm.rank + place.num_shards))
    return hidden


def _from_last(job: DecodeJob, hidden: torch.Tensor, count: int) -> torch.Tensor:
    """What the last stage has made, on all ranks."""
    place = job.place
    if place.stage + 1 < place.num_stages:
        hidden = job.stage.hidden_like(count)
    job.comm.broadcast(hidden, root=(place.num_stages - 1) * place.num_shards)
    return hidden
