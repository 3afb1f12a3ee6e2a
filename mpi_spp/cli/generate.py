"""`mpi-spp generate`: answer one prompt on all ranks."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._answers import answer_all
from mpi_spp.cli._options import (
    answer_options,
    json_option,
    model_options,
    run_option,
    sampling_options,
    schedule_options,
    trace_options,
)
from mpi_spp.cli._output import check_writable, may_share_terminal, write_json
from mpi_spp.cli._start import find_model, join, read_model, show_choice
from mpi_spp.cli._trace import traced
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.report.progress import Progress

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.engine import Engine
    from mpi_spp.model.prompt import TextStream


@click.command("generate")
@run_option("--prompt", "The prompt.")
@run_option("--prompt-file", "A UTF-8 file that holds the prompt.", type=click.Path())
@run_option("--prompt-ids", "A JSON file: a list of token ids, used as they are.", type=click.Path())
@answer_options
@sampling_options
@run_option("--num-return-sequences", "So many drawn answers; each is made by one rank alone.", type=int)
@schedule_options()
@model_options
@trace_options
@json_option("Write the answer and all measurements to this file;")
def command(**options: Any) -> None:
    """Answer one prompt on all ranks: prefill, KV sync, decode.

    The answer goes to standard output as it is made, everything else to standard error. Of several answers each stands
    below a line `--- 2 of 3`.
    """
    from mpi_spp.report.timings import Clock

    clock = Clock()
    config = RunConfig(**options)
    config.require_one_prompt()
    world = join(config)
    with traced(config, world):
        run(config, world, clock)


def run(config: RunConfig, world: "World", clock: Any) -> None:
    """Prepare on rank 0, load on all, stream the answer, report. Collective."""
    directory = find_model(config, world)
    from mpi_spp.engine import Engine  # imports torch: what is wrong above is said a second sooner
    from mpi_spp.mesh import mesh_of, require_one_replica
    from mpi_spp.request import Request
    from mpi_spp.strategies import load_strategies

    mesh, count = mesh_of(config.mesh, world.size), config.num_return_sequences
    require_one_replica(mesh)
    if not config.is_open:
        load_strategies(config, mesh, alone=count > 1)
    request, stream = _prepare(config, world, directory)
    if count > 1:
        prompt = (request["prompt_ids"], request["stop_ids"], request["max_new_tokens"])
        same = [Request(*prompt, stream=number) for number in range(count)]
        answer_all(config, world, clock, directory, request["model"], same, [{}] * count, stream)
        return
    lengths = replace(config, max_new_tokens=request["max_new_tokens"])
    engine = Engine(lengths, request["model"], directory, world, clock, len(request["prompt_ids"]))
    show_choice(engine)
    token_ids = _stream_answer(engine, request, stream, config)
    clock.mark("total")
    ranks = world.gather(engine.facts())
    if world.rank == 0:
        _report(engine.config, request | engine.schedule(), stream, token_ids, ranks, clock.moments["total"])


def _prepare(config: RunConfig, world: "World", directory: Path) -> tuple[dict[str, Any], "TextStream | None"]:
    """What rank 0 reads for all: the model's shape, the prompt's ids, the stop ids; and its own text stream."""
    stream = None

    def read() -> dict[str, Any]:
        nonlocal stream
        from mpi_spp.model.prompt import TextStream, load_tokenizer, prompt_token_ids, stop_token_ids

        check_writable(config.json)
        model = read_model(directory)
        tokenizer = load_tokenizer(directory)
        prompt_ids = prompt_token_ids(config, tokenizer, directory, model.vocab_size)
        free = model.max_positions - len(prompt_ids)
        if free < 1:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens, but {config.model} has {model.max_positions}"
                " positions; give a shorter one"
            )
        stream = TextStream(tokenizer) if tokenizer is not None else None
        stop_ids = frozenset() if config.ignore_eos else stop_token_ids(directory, tokenizer)
        new_tokens = min(config.max_new_tokens, free)
        return {"model": model, "prompt_ids": prompt_ids, "stop_ids": stop_ids, "max_new_tokens": new_tokens}

    return world.on_rank_0(read), stream


def _stream_answer(
    engine: "Engine", request: dict[str, Any], stream: "TextStream | None", config: RunConfig
) -> list[int]:
    """Show the tokens as they come; ids where there is no tokenizer."""
    show = engine.world.rank == 0 and config.json != "-"
    token_ids: list[int] = []
    most, counts = request["max_new_tokens"], engine.world.rank == 0 and not (show and may_share_terminal())
    with Progress("decode", most, "token", shows=counts) as progress:
        for token in engine.generate(request["prompt_ids"], request["stop_ids"], most):
            token_ids.append(token)
            progress.advance()
            if show:
                _write(stream.push(token) if stream else f"{token} ")
    if show:
        _write((stream.rest(token_ids) if stream else "") + "\n")
    return token_ids


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _report(
    config: RunConfig,
    request: dict[str, Any],
    stream: "TextStream | None",
    token_ids: list[int],
    ranks: list[dict[str, Any]],
    total_s: float,
) -> None:
    from rich.console import Console

    from mpi_spp.report.summary import print_tables, summarize

    answer = {
        "text": stream.text(token_ids) if stream else None,
        "token_ids": token_ids,
        "prompt_tokens": len(request["prompt_ids"]),
        "chunks": request["chunks"],
        "choice": request["choice"],
        "finish_reason": "stop" if token_ids[-1] in request["stop_ids"] else "length",
    }
    summary = summarize(ranks, answer, asdict(config), total_s)
    print_tables(summary, Console(stderr=True))
    write_json(config.json, summary)
