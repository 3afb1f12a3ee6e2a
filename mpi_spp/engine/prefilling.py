"""Prompts on their way from token ids to a cache that the decode can use: chunks, the sync, the last hidden state."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mpi_spp.engine.caches import Caches
from mpi_spp.engine.ticks import Ticks
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import PromptSync
from mpi_spp.strategies.assignment import Plan
from mpi_spp.strategies.prefill._job import Compute, PrefillJob, Prompt
from mpi_spp.system.progress import Progress
from mpi_spp.system.timed import timed
from mpi_spp.system.timings import Clock

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Prefilled:
    """A prompt under way, or done. `owner`: whatever it was added with; `moments`: when it began and ended, by name.

    `hidden`: of its last token, [1, hidden_size], on every rank once it is done.
    """

    owner: Any
    prompt: Prompt
    cache: KVCache
    sync: PromptSync
    hidden: torch.Tensor
    moments: dict[str, float] = field(default_factory=dict)


class Prefilling:
    """The prompts that are prefilled, one behind the other. All ranks of a replica call it alike."""

    def __init__(
        self, job: PrefillJob, compute: Compute, caches: Caches, plan: Plan, clock: Clock, shows: bool
    ) -> None:
        """`shows`: whether this rank shows how far a prompt is."""
        self._job, self._caches, self._plan, self._clock, self._shows = job, caches, plan, clock, shows
        self._ticks = Ticks(job, compute)
        self._computing: list[Prefilled] = []
        self._syncing: list[Prefilled] = []

    def __len__(self) -> int:
        return len(self._computing) + len(self._syncing)

    def add(self, owner: Any, prompt_ids: Sequence[int], chunks: list[range], cache: KVCache) -> None:
        """Let a prompt follow the others; `cache`: what this rank is to have of it in the decode."""
        if not self:
            self._job.comm.barrier()  # so that all begin it at the same time
            self._job.stage.load.clear()
        source = self._caches.source(cache, chunks)
        progress = Progress("prefill", len(prompt_ids), "token", shows=self._shows)
        parts, first = self._plan.prefill_parts(chunks), self._ticks.next_free
        prompt = Prompt(torch.tensor(prompt_ids), chunks, parts, source, first, progress)
        sync = self._job.exchange.add(*self._caches.rounds(source, cache, chunks), first)
        self._ticks.add(prompt)
        self._computing.append(Prefilled(owner, prompt, cache, sync, self._job.stage.hidden_like(1)))

    def advance(self, ticks: int | None = None) -> list[Prefilled]:
        """Run so many ticks, or until a prompt is done (None); the prompts that are done.

        A prompt's sync has a tick of those behind it to hide in, where there are any.
        """
        number = 0
        ready: list[Prefilled] = []
        with timed("prefill", tokens=sum(len(one.prompt) for one in self._computing)):
            while self._ticks and not ready and number != ticks:
                ready, self._syncing = self._syncing, []
                self._tick()
                number += 1
        if not self._ticks:
            self._ticks.finish()
            ready, self._syncing = [*ready, *self._syncing], []
        for one in ready:
            self._finish(one)
        return ready

    def _tick(self) -> None:
        for one in self._computing:
            if one.prompt.first_tick == self._ticks.number:
                self._mark(one, "prefill_start")
        left = self._ticks.run()
        if left is not None:
            one = self._computing.pop(0)
            one.hidden = left
            self._mark(one, "prefill_end")
            self._syncing.append(one)

    def _finish(self, one: Prefilled) -> None:
        """Wait for the last rounds of its sync, and bring its last token's hidden state to all ranks."""
        comm, phase = self._job.comm, self._plan.prefill
        with timed("sync"):
            one.sync.finish()
            comm.barrier()
            self._mark(one, "sync_end")
        if phase.places[0].num_stages > 1:
            comm.broadcast(one.hidden, root=phase.last)

    def _mark(self, one: Prefilled, name: str) -> None:
        """Note a moment of a prompt, when all that was started on the device is done."""
        if self._job.stage.device.type == "cuda":
            torch.cuda.synchronize(self._job.stage.device)
        one.moments[name] = self._clock.now()
        log.info("%s at %.3f s", name, one.moments[name])
