"""`mpi-spp ask`: answer many questions about one document, which is read once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._answers import answer_all
from mpi_spp.cli._options import (
    answer_options,
    json_option,
    model_options,
    penalty_options,
    run_option,
    sampling_options,
    schedule_options,
    trace_options,
)
from mpi_spp.cli._output import leave_with
from mpi_spp.cli._trace import traced
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.opening import find_model, join, read_model

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.model.config import ModelConfig
    from mpi_spp.model.text.generation import Generation
    from mpi_spp.model.text.prompt import TextStream
    from mpi_spp.request import Request
    from mpi_spp.system.timings import Clock

_Prepared = tuple["ModelConfig", list["Request"], list[dict[str, Any]], "Generation"]


@click.command("ask")
@run_option("--document", "A UTF-8 file: what the questions are about.", type=click.Path(), required=True)
@run_option("--questions", "A UTF-8 file: one question a line, blank lines skipped.", type=click.Path(), required=True)
@answer_options
@sampling_options
@penalty_options
@schedule_options()
@model_options
@trace_options
@json_option("Write all answers and measurements to this file;")
def command(**options: Any) -> None:
    """Answer many questions about one document, which is read once.

    All ranks prefill what the prompts share; then each answers questions of its own and waits for no other rank. Every
    prompt is the document, a blank line and the question, and gets the tokens that `generate` would give it; with a
    temperature every question has draws of its own. Answers go to standard output in order, each below a line
    `--- 2 of 8: QUESTION`; everything else goes to standard error. A question whose scores are no finite numbers is
    named there, and the others are answered; then the exit status is 1.
    """
    from mpi_spp.system.timings import Clock

    clock = Clock()
    config = RunConfig(**options)
    world = join(config)
    with traced(config, world):
        status = run(config, world, clock)
    leave_with(world, status)


def run(config: RunConfig, world: "World", clock: "Clock") -> int:
    """Prepare on rank 0, load on all, answer, report; returns the exit status. Collective."""
    directory = find_model(config, world)
    from mpi_spp.parallel.mesh import mesh_of
    from mpi_spp.strategies.assignment import load_strategies

    mesh = mesh_of(config.mesh, world.size)
    if not config.is_open:
        load_strategies(config, mesh, alone=True)
    (model, requests, labels, generation), stream = _prepare(config, world, directory)
    return answer_all(config, world, clock, directory, model, requests, labels, stream, generation)


def _prepare(config: RunConfig, world: "World", directory: Path) -> tuple[_Prepared, "TextStream | None"]:
    """What rank 0 reads for all: the model's shape, requests, questions; and its own text stream. Collective."""
    stream = None

    def read() -> _Prepared:
        nonlocal stream
        from mpi_spp.model.text.generation import read_generation
        from mpi_spp.model.text.prompt import TextStream
        from mpi_spp.model.text.questions import read_questions
        from mpi_spp.model.text.tokenizer import load_tokenizer
        from mpi_spp.request import Request

        model = read_model(directory)
        tokenizer = load_tokenizer(directory, chats=config.chat is not False)
        generation = read_generation(config, tokenizer, directory)
        questions = read_questions(config, tokenizer, directory, model)
        stream = TextStream(tokenizer)
        longest = [min(config.max_new_tokens, model.max_positions - len(one.prompt_ids)) for one in questions]
        pairs = enumerate(zip(questions, longest, strict=True))
        stop_ids, penalties = generation.stop_ids, generation.penalties
        requests = [Request(one.prompt_ids, stop_ids, most, number, penalties) for number, (one, most) in pairs]
        return model, requests, [{"question": one.text, "line": one.line} for one in questions], generation

    return world.on_rank_0(read), stream
