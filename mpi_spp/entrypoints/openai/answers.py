"""From a request's tokens, as the ranks make them, to what its client reads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from mpi_spp.entrypoints.openai.bridge import Bridge, Busy, Event, Ticket
from mpi_spp.entrypoints.openai.metrics import Metrics
from mpi_spp.entrypoints.openai.protocol import Asked, Refused, answer, event, last_piece, piece
from mpi_spp.errors import UserError
from mpi_spp.model.text.prompt import TextStream


class Said(NamedTuple):
    """New text of a choice; `reason`: why it ends with this, if it does."""

    number: int
    text: str
    reason: str | None


class Answers:
    """Of one client, whose choices come as they are made. Leaving it cancels what is not finished."""

    def __init__(self, asked: Asked, bridge: Bridge, metrics: Metrics, stream: Callable[[], TextStream]) -> None:
        self._asked, self._bridge, self._metrics = asked, bridge, metrics
        self._texts = [stream() for _ in asked.requests]
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.num_tokens = 0
        loop = asyncio.get_running_loop()

        def ticket(number: int) -> Ticket:
            def deliver(one: Event) -> None:
                loop.call_soon_threadsafe(self._events.put_nowait, (number, one))

            return Ticket(asked.requests[number], deliver)

        self._tickets = [ticket(number) for number in range(len(asked.requests))]

    async def whole(self) -> dict[str, object]:
        """All choices, when all are done. Raises Refused where one cannot be."""
        texts, reasons = [""] * len(self._tickets), [""] * len(self._tickets)
        async for said in self._said():
            texts[said.number] += said.text
            reasons[said.number] = said.reason or ""
        return answer(self._asked, texts, reasons, self.num_tokens)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events, an error as one of them."""
        begun = set[int]()
        try:
            async for said in self._said():
                if said.number not in begun and self._asked.is_chat:
                    yield piece(self._asked, said.number, "", is_first=True)
                begun.add(said.number)
                if said.text:
                    yield piece(self._asked, said.number, said.text)
                if said.reason:
                    yield piece(self._asked, said.number, None, said.reason)
        except Refused as refused:
            yield event(refused.told())
            return
        if self._asked.includes_usage:
            yield last_piece(self._asked, self.num_tokens)
        yield "data: [DONE]\n\n"

    def submit(self) -> None:
        """Queue all choices. Raises Refused where there is no room."""
        try:
            self._bridge.submit(self._tickets)
        except Busy as busy:
            status = 503 if "ending" in str(busy) else 429
            raise Refused(status, str(busy), code="rate_limit_exceeded" if status == 429 else None) from None
        self._metrics.prompt_tokens.inc(self._asked.prompt_tokens)

    async def _said(self) -> AsyncIterator[Said]:
        left, counts, before = (
            set(range(len(self._tickets))),
            [0] * len(self._tickets),
            [time.monotonic()] * len(self._tickets),
        )
        try:
            while left:
                number, what = await self._events.get()
                if isinstance(what, UserError):
                    self._metrics.finished.labels("error").inc()
                    raise Refused(503 if "ending" in str(what) else 500, str(what))
                now, request = time.monotonic(), self._tickets[number].request
                histogram = self._metrics.next_token if counts[number] else self._metrics.first_token
                histogram.observe(now - before[number])
                before[number], counts[number] = now, counts[number] + 1
                self.num_tokens += 1
                self._metrics.new_tokens.inc()
                stops = what in request.stop_ids
                text = self._texts[number].push(what)
                reason = None
                if request.ends_with(what, counts[number]):
                    left.remove(number)
                    text, reason = text + self._texts[number].rest(), "stop" if stops else "length"
                    self._metrics.finished.labels(reason).inc()
                yield Said(number, text, reason)
        finally:
            for number in left:
                self._bridge.cancel(self._tickets[number])
                self._metrics.finished.labels("abort").inc()
