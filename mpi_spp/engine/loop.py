"""The order of things, step by step: requests come, are prefilled, make tokens, and go."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from mpi_spp.engine.diagnosis import Fail
from mpi_spp.engine.prefilling import Prefilled
from mpi_spp.engine.scheduler import Scheduler
from mpi_spp.engine.source import Source
from mpi_spp.request import Request
from mpi_spp.strategies.decode._job import Selected, SequenceState, no_tokens

if TYPE_CHECKING:
    from mpi_spp.engine.engine import Engine


class Loop:
    """The sequences that are under way in one call of an engine. All ranks of a replica go through it alike.

    `between` is called after each prefill: whoever waits for this rank should not wait for all of them. `fail`: see
    `Engine.decode`.
    """

    def __init__(
        self,
        engine: "Engine",
        source: Source,
        scheduler: Scheduler,
        between: Callable[[], object] = lambda: None,
        fail: Fail | None = None,
    ) -> None:
        self._engine, self._source, self._scheduler = engine, source, scheduler
        self._between, self._fail = between, fail
        self._prefilling, self._decoding = engine.new_prefilling(), engine.new_decoding()
        self._ready: list[Prefilled] = []  # to be decoded
        self._running: dict[int, SequenceState] = {}
        self._alive, self._dropped = set[int](), set[int]()  # numbers: not finished; and no longer wanted
        self._count = 0  # of those that have come

    def tokens(self) -> Iterator[tuple[int, int]]:
        """Yield a request's number with its next token, on every rank, until the source has no more.

        Requests are taken when the scheduler has room for them: their prompts follow one another through the stages,
        and they join the others between two of their tokens.
        """
        while self._take():
            if (given := self._step())[0]:
                yield from self._engine.taken(given, self._fail)
            self._alive -= {number for number, one in self._running.items() if one.finished}
            self._running = {number: one for number, one in self._running.items() if not one.finished}
            del given  # and with it the caches of those that are finished

    def _take(self) -> bool:
        """Let go of those that are finished, and take more; whether there is or may be anything to do."""
        self._decoding.drop_finished()  # before others take the room of their caches
        if not self._alive:
            while self._decoding.step()[0]:  # who was dropped may be between two stages, and its messages on their way
                pass
            self._engine.free_shared()  # it gives back all or nothing
        room = self._scheduler.room(len(self._alive), self._engine.shares_memory)
        arrived = self._source.take(room, not self._alive)
        if arrived is None:
            return False
        for request in arrived.requests:
            self._begin(request)
        self._dropped = (self._dropped | set(arrived.dropped)) & self._alive
        return True

    def _begin(self, request: Request) -> None:
        """Let a request's prompt follow those that are prefilled."""
        engine, length, number = self._engine, len(request.prompt_ids), self._count
        cache = engine.new_cache(length + request.max_new_tokens, length)
        self._prefilling.add((number, request), request.prompt_ids, engine.cut(length), cache)
        self._alive.add(number)
        self._count += 1

    def _step(self) -> Selected:
        """Some ticks of the prompts that are prefilled, or a token of those that are decoded; of none, nothing."""
        given: Selected = ([], no_tokens())
        if self._scheduler.prefills_next(len(self._prefilling), len(self._running)):
            self._ready += self._prefilling.advance(self._scheduler.ticks)
            if self._ready and self._scheduler.join_now(len(self._prefilling)):
                given = self._join()
        elif self._running:
            given = self._decoding.step()
        for number in self._dropped & self._running.keys():
            self._running[number].finished = True
        return given

    def _join(self) -> Selected:
        """Let requests whose prefill is done join those that are decoded."""
        done, self._ready = self._ready, []
        for one in done:
            self._engine.note(one)
            self._between()
        owned = [(*one.owner, one.cache) for one in done]
        states = [self._engine.state_of(number, request, cache) for number, request, cache in owned]
        self._running |= {one.number: one for one in states}
        return self._decoding.admit(states, torch.cat([one.hidden for one in done]))
