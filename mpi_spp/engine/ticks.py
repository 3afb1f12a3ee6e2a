"""Prompts' chunks stream through the stages of layers, one prompt behind the other; one stage is a stream of one."""

from collections import deque

import torch

from mpi_spp.comm.requests import Request
from mpi_spp.parallel.rounds import ALL_LAYERS
from mpi_spp.strategies.prefill._job import Compute, PrefillJob, Prompt

_Item = tuple[Prompt, int]  # and the number of one of its chunks


class Ticks:
    """In a tick each stage computes one chunk; while a later stage runs one, an earlier one runs the next.

    All ranks of the replica call this alike. Where the ranks of a stage split the tokens, each has and hands on the
    hidden states of its own.
    """

    def __init__(self, job: PrefillJob, compute: Compute) -> None:
        self._job, self._compute, self.number = job, compute, 0  # of the next tick
        self._waiting = deque[_Item]()
        self._inside = deque[_Item | None]([None] * job.place.num_stages)  # what is in each stage
        self._arriving: tuple[torch.Tensor, Request] | None = None
        self._sends: list[Request] = []

    def __bool__(self) -> bool:
        """Whether any prompt is under way."""
        return bool(self._waiting) or any(self._inside)

    @property
    def next_free(self) -> int:
        """The tick in which the first chunk of the next prompt can enter the first stage."""
        return self.number + len(self._waiting)

    def add(self, prompt: Prompt) -> None:
        """Let a prompt follow the others; its first tick is the next free one."""
        self._waiting += ((prompt, number) for number in range(len(prompt.chunks)))

    def run(self) -> torch.Tensor | None:
        """One tick. If the earliest prompt's last chunk has left the last stage in it: its last token's hidden state.

        That is [1, hidden_size], on the ranks of the last stage; on others room for it.
        """
        job, inside, stage = self._job, self._inside, self._job.place.stage
        inside.pop()
        inside.appendleft(self._waiting.popleft() if self._waiting else None)
        inputs, self._arriving = self._arriving, self._expect(inside[stage - 1]) if stage else None
        hidden = None
        if (item := inside[stage]) is not None:
            hidden = self._through_layers(*item, inputs)
        job.exchange.reached(self.number, ALL_LAYERS)
        self.number += 1
        self._sends = [send for send in self._sends if not send.test()]
        if (leaving := inside[-1]) is None or leaving[1] + 1 < len(leaving[0].chunks):
            return None
        return (
            self._last(leaving[0], hidden)
            if hidden is not None and inside[stage] is leaving
            else job.stage.hidden_like(1)
        )

    def finish(self) -> None:
        """Return when all that was handed on has arrived; no prompt is under way any more."""
        for send in self._sends:
            self._job.comm.wait(send, meanwhile=self._job.exchange.test)
        self._sends = []

    def _expect(self, item: _Item | None) -> tuple[torch.Tensor, Request] | None:
        """Post the receive of what the stage before this one computes in this tick, before it is needed."""
        if item is None:
            return None
        job = self._job
        hidden = job.stage.hidden_like(sum(map(len, job.own(*item))))
        return hidden, job.comm.irecv(hidden, job.comm.rank - job.place.stage_size)

    def _through_layers(self, prompt: Prompt, number: int, inputs: tuple[torch.Tensor, Request] | None) -> torch.Tensor:
        """The hidden states [own tokens, hidden_size] of a chunk behind this stage, which the next one gets."""
        job, place = self._job, self._job.place
        if inputs is None:  # the first stage embeds its own
            own = [prompt.ids[one.start : one.stop] for one in job.own(prompt, number)]
            hidden = job.stage.embed(torch.cat([prompt.ids[:0], *own]))
        else:
            hidden, request = inputs
            job.comm.wait(request, meanwhile=job.exchange.test)
        hidden = self._compute(job, prompt, number, self.number, hidden)
        prompt.progress.advance(len(prompt.chunks[number]))
        if number + 1 == len(prompt.chunks):
            prompt.progress.close()
        if place.stage + 1 < place.num_stages:
            self._sends.append(job.comm.isend(hidden, job.comm.rank + place.stage_size))
        return hidden

    def _last(self, prompt: Prompt, hidden: torch.Tensor) -> torch.Tensor:
        """The last token's hidden state [1, hidden_size] on all ranks of a stage, from those of each one's tokens."""
        job = self._job
        owner = next(part for part, held in enumerate(prompt.positions) if held and held[-1].stop == len(prompt))
        if job.place.part != owner:
            row = job.stage.hidden_like(1)
        elif job.shard.exchange is None:
            row = hidden[-1:].clone()
        else:
            row = job.shard.exchange.last(hidden, sum(map(len, job.in_part(prompt, len(prompt.chunks) - 1))))
        if job.parts.size > 1:
            job.parts.broadcast(row, root=owner)
        return row
