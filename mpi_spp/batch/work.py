"""The lines that wait, handed out in groups, and their answers, put back in order. Rank 0 has it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mpi_spp.batch.encoder import Encoder
from mpi_spp.batch.lines import id_of, parse_line, read_object
from mpi_spp.batch.output import Output
from mpi_spp.errors import UserError
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.request import Request

Group = list[tuple[int, Request]]  # each request after its place among the lines
Answer = list[int] | str  # token ids, or why there are none


@dataclass(frozen=True)
class Waiting:
    """A line that a replica is answering."""

    id: Any
    request: Request


@dataclass
class Totals:
    """What was done in this run."""

    answered: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0


class Work:
    """`lines`: each after its number. `tell(number, error)` is called for each; the error of an answer is None."""

    def __init__(
        self,
        lines: Sequence[tuple[int, bytes]],
        groups: Sequence[range],
        encoder: Encoder,
        output: Output,
        tell: Callable[[int, str | None], None],
    ) -> None:
        self.num_waiting, self.output = len(lines), output
        self._lines, self._encoder, self._tell = lines, encoder, tell
        self._groups = iter(groups)
        self._waiting: dict[int, Waiting] = {}
        self._answers: dict[int, dict[str, Any]] = {}  # those before which another one is missing
        self._next = 0
        self.totals = Totals()

    def take(self) -> Group:
        """The next group of requests, without bad lines, which are answered here; empty when all are handed out.

        Empty also when answers could not be kept.
        """
        for places in self._groups:
            if self.output.lost is not None:
                break
            if group := list(self._requests(places)):
                return group
        return []

    def finish(self, place: int, given: Answer) -> None:
        """Put an answer into its place."""
        waiting = self._waiting.pop(place)
        if isinstance(given, str):
            self._skip(place, waiting.id, given)
            return
        token_ids, request, totals = given, waiting.request, self.totals
        totals.answered += 1
        totals.prompt_tokens += len(request.prompt_ids)
        totals.new_tokens += len(token_ids)
        answer = {
            "line": self._lines[place][0],
            "id": waiting.id,
            "text": self._encoder.text(token_ids),
            "token_ids": token_ids,
            "prompt_tokens": len(request.prompt_ids),
            "finish_reason": "stop" if token_ids[-1] in request.stop_ids else "length",
        }
        self._put(place, answer)

    def _requests(self, places: range) -> Iterator[tuple[int, Request]]:
        for place in places:
            number, line = self._lines[place]
            name = None
            try:
                fields = read_object(line)
                name = id_of(fields)
                request = self._encoder.request(parse_line(fields), stream=number)
            except UserError as error:
                self._skip(place, name, str(error))
            else:
                self._waiting[place] = Waiting(name, request)
                yield place, request

    def _skip(self, place: int, name: Any, error: str) -> None:
        self.totals.skipped += 1
        self._put(place, {"line": self._lines[place][0], "id": name, "error": error})

    def _put(self, place: int, answer: dict[str, Any]) -> None:
        """Write it and those that waited for it, if none before it is missing."""
        self._answers[place] = answer
        self._tell(answer["line"], answer.get("error"))
        while self._next in self._answers:
            self.output.append(self._answers.pop(self._next))
            self._next += 1


def groups_of(count: int, num_replicas: int, most: int) -> list[range]:
    """Cut lines into groups of `most` at most and of nearly one size, as many for one replica as for another."""
    turns = -(-count // (num_replicas * most))
    return split_evenly(count, min(count, turns * num_replicas)) if count else []
