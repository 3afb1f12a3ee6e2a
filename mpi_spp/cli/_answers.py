"""Several answers of one run: made by ranks alone, shown in order, reported together."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi_spp.cli._output import may_share_terminal, write_json
from mpi_spp.cli._start import show_choice
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.opening import make_engine
from mpi_spp.system.progress import Progress

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.engine.fan_out import Answers
    from mpi_spp.model.config import ModelConfig
    from mpi_spp.model.text.generation import Generation
    from mpi_spp.model.text.prompt import TextStream
    from mpi_spp.request import Request
    from mpi_spp.system.timings import Clock


_FAILED = 1  # the exit status when a question has no answer


class Printer:
    """Writes answers in order, each below a line `--- 2 of 3` and its title; ids where there is no tokenizer.

    One that has failed has what there was of it, or an empty line.
    """

    def __init__(self, titles: Sequence[str], stream: "TextStream | None") -> None:
        self._titles, self._stream = titles, stream
        self._number, self._token_ids = -1, list[int]()

    def push(self, number: int, token: int) -> None:
        """Show the next token of this answer or of a later one."""
        self._go_to(number)
        self._token_ids.append(token)
        _write(self._stream.push(token) if self._stream else f"{token} ")

    def finish(self, answers: Sequence[list[int]]) -> None:
        """Show those behind the last one, which are whole."""
        for number in range(self._number + 1, len(answers)):
            self._go_to(number)
            for token in answers[number]:
                self.push(number, token)
        self._end()

    def _go_to(self, number: int) -> None:
        while self._number < number:
            self._end()
            self._begin(self._number + 1)

    def _end(self) -> None:
        if self._number >= 0:
            _write((self._stream.rest() if self._stream else "") + "\n")

    def _begin(self, number: int) -> None:
        self._number, self._token_ids = number, []
        self._stream = self._stream and self._stream.fresh()
        title = self._titles[number]
        _write(f"--- {number + 1} of {len(self._titles)}{title and ': '}{title}\n")


def answer_all(
    config: RunConfig,
    world: "World",
    clock: "Clock",
    directory: Path,
    model: "ModelConfig",
    requests: Sequence["Request"],
    labels: Sequence[dict[str, Any]],
    stream: "TextStream | None",
    generation: "Generation",
) -> int:
    """Load, answer all requests, show and report; returns the exit status, 1 when some have failed. Collective.

    Rank 0 shows its own answers, the first ones, while they are made, and the others when all ranks are done. `labels`:
    what the JSON tells of each besides its answer.
    """
    from mpi_spp.engine.fan_out import fan_out, numbers_of

    longest = max(len(one.prompt_ids) for one in requests)
    engine = make_engine(config, model, directory, world, clock, longest, alone=True)
    show_choice(engine, generation)
    printer = None
    if world.rank == 0 and config.json != "-":
        printer = Printer([label.get("question", "") for label in labels], stream)
    most = sum(requests[number].max_new_tokens for number in numbers_of(world.rank, world.size, len(requests)))
    has_bar = world.rank == 0 and not (printer and may_share_terminal())
    with Progress("decode", most, "token", shows=has_bar) as progress:

        def show(number: int, token: int) -> None:
            progress.advance()
            if printer is not None:
                printer.push(number, token)

        answers = fan_out(engine, requests, show)
    if printer is not None:
        printer.finish(answers.tokens)
    clock.mark("total")
    ranks = world.gather(engine.facts())

    def report() -> None:
        told = _told(requests, labels, answers, stream, world.size) | engine.schedule() | generation.told()
        _report(engine.config, told, ranks, clock.moments["total"])
        for number, error in sorted(answers.errors.items()):
            print(f"mpi-spp: {_name_of(config, labels, number)}: {error}", file=sys.stderr, flush=True)

    world.on_rank_0(report)
    return _FAILED if answers.errors else 0


def _name_of(config: RunConfig, labels: Sequence[dict[str, Any]], number: int) -> str:
    line = labels[number].get("line")
    return f"answer {number + 1} of {len(labels)}" if line is None else f"{config.questions}:{line}"


def _told(
    requests: Sequence["Request"],
    labels: Sequence[dict[str, Any]],
    answers: "Answers",
    stream: "TextStream | None",
    num_ranks: int,
) -> dict[str, Any]:
    from mpi_spp.engine.fan_out import numbers_of, shared_length

    rank_of = {number: rank for rank in range(num_ranks) for number in numbers_of(rank, num_ranks, len(requests))}
    told = [
        label
        | {
            "text": stream.text(token_ids) if stream else None,
            "token_ids": token_ids,
            "prompt_tokens": len(request.prompt_ids),
            "finish_reason": _reason(token_ids, request),
            "rank": rank_of[number],
        }
        | ({"error": answers.errors[number], "finish_reason": "error"} if number in answers.errors else {})
        for number, (request, label, token_ids) in enumerate(zip(requests, labels, answers.tokens, strict=True))
    ]
    return {"answers": told, "shared_tokens": shared_length([one.prompt_ids for one in requests])}


def _reason(token_ids: list[int], request: "Request") -> str:
    return "stop" if token_ids and token_ids[-1] in request.stop_ids else "length"


def _report(config: RunConfig, told: dict[str, Any], ranks: list[dict[str, Any]], total_s: float) -> None:
    from mpi_spp.instruments.report.fan_out import print_fan_out, summarize_fan_out
    from mpi_spp.instruments.report.tables import reports

    summary = summarize_fan_out(ranks, told, asdict(config), total_s)
    print_fan_out(summary, reports())
    write_json(config.json, summary)


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
