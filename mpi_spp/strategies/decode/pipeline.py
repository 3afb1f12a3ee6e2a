"""Pipelined decode: the layers stay split, and groups of sequences follow one another through the stages.

With as many groups as stages all of them work. One sequence keeps one stage at a time busy: that is what lets a model
run that no rank could hold.
"""

from collections import deque
from collections.abc import Sequence

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.parallel.mesh import stages
from mpi_spp.strategies.decode._job import DecodeJob, Selected, SequenceState, grow, no_tokens

place = stages

_TAG = 1  # a prompt's hidden states may follow one another through the stages while some of these are under way
_Group = list[tuple[SequenceState, torch.Tensor]]  # sequences, each with its newest token, [1]


class Stream:
    """See Decoding.

    In a tick each stage computes one group, the last one's hidden states go to all ranks, which select its tokens
    together; then its sequences may enter the first stage again.
    """

    def __init__(self, job: DecodeJob) -> None:
        self._job = job
        self._waiting: _Group = []
        self._inside = deque[_Group]([[]] * job.place.num_stages)  # what is in each stage
        self._sends: list[Request] = []

    def admit(self, sequences: Sequence[SequenceState], hidden: torch.Tensor) -> Selected:
        """See Decoding."""
        tokens = self._job.select(sequences, hidden)
        self._waiting += zip(sequences, tokens.split(1), strict=True)
        return sequences, tokens

    def drop_finished(self) -> None:
        """See Decoding."""
        self._waiting = [one for one in self._waiting if not one[0].finished]

    def step(self) -> Selected:
        """See Decoding."""
        while self._enter() or any(self._inside):
            hidden = self._compute(self._inside[self._job.place.stage])
            self._sends = [send for send in self._sends if not send.test()]
            if leaving := [sequence for sequence, _ in self._inside[-1]]:
                self._inside[-1] = []
                hidden = self._from_last(hidden, len(leaving))
                grow(leaving)
                return self.admit(leaving, hidden)
        for send in self._sends:
            self._job.comm.wait(send)
        self._sends = []
        return [], no_tokens()

    def _enter(self) -> bool:
        """Move all groups on by a stage, and let the next one in; whether there is one."""
        self.drop_finished()
        self._inside.pop()
        count = len(self._waiting) + sum(map(len, self._inside))
        share = -(-count // self._job.place.num_stages)  # as many groups as stages
        self._inside.appendleft(self._waiting[:share])
        self._waiting = self._waiting[share:]
        return bool(self._inside[0])

    def _compute(self, group: _Group) -> torch.Tensor:
        """Take a group through this rank's layers, and send it on; its hidden states [sequences, hidden_size]."""
        job, place = self._job, self._job.place
        if not group:
            return job.stage.hidden_like(0)
        sequences, newest = zip(*group, strict=True)
        if place.stage == 0:
            hidden = job.stage.embed(torch.cat(newest))
        else:
            hidden = job.stage.hidden_like(len(group))
            job.comm.wait(job.comm.irecv(hidden, job.comm.rank - place.num_shards, _TAG))
        job.forward(sequences, hidden)
        if place.stage + 1 < place.num_stages:
            self._sends.append(job.comm.isend(hidden, job.comm.rank + place.num_shards, _TAG))
        return hidden

    def _from_last(self, hidden: torch.Tensor, count: int) -> torch.Tensor:
        """What the last stage has made, on all ranks."""
        job, place = self._job, self._job.place
        if place.stage + 1 < place.num_stages:
            hidden = job.stage.hidden_like(count)
        job.comm.broadcast(hidden, root=(place.num_stages - 1) * place.num_shards)
        return hidden


decode = Stream
