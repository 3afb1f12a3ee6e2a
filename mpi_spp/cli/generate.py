"""`mpi-spp generate`: answer one prompt on all ranks."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
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
from mpi_spp.cli._output import leave_with, may_share_terminal, write_json
from mpi_spp.cli._start import show_choice
from mpi_spp.cli._trace import traced
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.opening import find_model, join, make_engine, read_model
from mpi_spp.errors import UserError
from mpi_spp.system.progress import Progress

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.model.text.generation import Generation
    from mpi_spp.model.text.prompt import TextStream


@click.command("generate")
@run_option("--prompt", "The prompt.")
@run_option("--prompt-file", "A UTF-8 file that holds the prompt; - is standard input.", type=click.Path())
@run_option("--prompt-ids", "A JSON file: a list of token ids, used as they are.", type=click.Path())
@answer_options
@sampling_options
@penalty_options
@run_option("--num-return-sequences", "So many drawn answers; each is made by one rank alone.", type=int)
@run_option("--guidance-scale", "Above 1: towards the prompt, away from the negative prompt; 1: off.", type=float)
@run_option("--negative-prompt", "What guidance steers away from.  [default: the prompt's last token alone]")
@schedule_options()
@model_options
@trace_options
@json_option("Write the answer and all measurements to this file;")
def command(**options: Any) -> None:
    """Answer one prompt on all ranks: prefill, KV sync, decode.

    The answer goes to standard output as it is made, everything else to standard error. Of several answers each stands
    below a line `--- 2 of 3`.
    """
    from mpi_spp.system.timings import Clock

    clock = Clock()
    config = RunConfig(**options)
    config.require_one_prompt()
    world = join(config)
    with traced(config, world):
        status = run(config, world, clock)
    leave_with(world, status)


def run(config: RunConfig, world: "World", clock: Any) -> int:
    """Prepare on rank 0, load on all, stream the answer, report; returns the exit status. Collective."""
    directory = find_model(config, world)
    from mpi_spp.engine.guidance import Guidance  # imports torch: what is wrong above is said a second sooner
    from mpi_spp.engine.teams import teams_of
    from mpi_spp.parallel.mesh import require_one_replica
    from mpi_spp.request import Request
    from mpi_spp.strategies.assignment import load_strategies

    meshes, count = [team.mesh for team in teams_of(config, world.size)], config.num_return_sequences
    require_one_replica(meshes[0])
    chosen = [] if config.is_open else [load_strategies(config, mesh, alone=count > 1) for mesh in meshes]
    request, stream = _prepare(config, world, directory)
    generation: Generation = request["generation"]
    for one in chosen:  # by all ranks, though of a guidance pair only one half may have to refuse
        config.require_layer_split(request["model"].num_hidden_layers, one.num_stages)
    if count > 1:
        prompt = (request["prompt_ids"], generation.stop_ids, request["max_new_tokens"])
        same = [Request(*prompt, stream=number, penalties=generation.penalties) for number in range(count)]
        labels: list[dict[str, Any]] = [{}] * count
        return answer_all(config, world, clock, directory, request["model"], same, labels, stream, generation)
    lengths = replace(config, max_new_tokens=request["max_new_tokens"])
    engine = make_engine(lengths, request["model"], directory, world, clock, len(request["prompt_ids"]))
    show_choice(engine, generation)
    guidance = Guidance(engine, request["negative_ids"]) if config.is_guided else None
    most = request["max_new_tokens"]
    asked = (request["prompt_ids"], generation.stop_ids, most, generation.penalties)
    tokens = (guidance or engine).generate(*asked)
    token_ids = _stream_answer(tokens, most, world, stream, config)
    clock.mark("total")
    ranks = world.gather(engine.facts() | ({"sequences": guidance.prefills} if guidance else {}))
    told, total_s = request | engine.schedule(), clock.moments["total"]
    world.on_rank_0(lambda: _report(engine.config, told, stream, token_ids, ranks, total_s))
    return 0


def _prepare(config: RunConfig, world: "World", directory: Path) -> tuple[dict[str, Any], "TextStream | None"]:
    """What rank 0 reads for all: the model's shape, the prompt's ids, the stop ids; and its own text stream."""
    stream = None

    def read() -> dict[str, Any]:
        nonlocal stream
        from mpi_spp.model.text.generation import read_generation
        from mpi_spp.model.text.prompt import TextStream, negative_token_ids, prompt_token_ids
        from mpi_spp.model.text.tokenizer import load_tokenizer

        model = read_model(directory)
        tokenizer = load_tokenizer(directory, chats=config.prompt_ids is None and config.chat is not False)
        generation = read_generation(config, tokenizer, directory)
        prompt_ids = prompt_token_ids(config, tokenizer, directory, model)
        prompts = {"prompt": prompt_ids}
        if config.is_guided:
            prompts["negative prompt"] = negative_token_ids(config, tokenizer, directory, model, prompt_ids)
        longest = max(prompts, key=lambda name: len(prompts[name]))
        free = model.max_positions - len(prompts[longest])
        if free < 1:
            raise UserError(
                f"the {longest} has {len(prompts[longest])} tokens, but {config.model} has {model.max_positions}"
                " positions; give a shorter one"
            )
        stream = TextStream(tokenizer) if tokenizer is not None else None
        return {
            "model": model,
            "prompt_ids": prompt_ids,
            "negative_ids": prompts.get("negative prompt"),
            "generation": generation,
            "max_new_tokens": min(config.max_new_tokens, free),
        }

    return world.on_rank_0(read), stream


def _stream_answer(
    tokens: Iterable[int], most: int, world: "World", stream: "TextStream | None", config: RunConfig
) -> list[int]:
    """Show the tokens, so many at most, as they come; ids where there is no tokenizer."""
    show = world.rank == 0 and config.json != "-"
    token_ids: list[int] = []
    with Progress("decode", most, "token", shows=world.rank == 0 and not (show and may_share_terminal())) as progress:
        for token in tokens:
            token_ids.append(token)
            progress.advance()
            if show:
                _write(stream.push(token) if stream else f"{token} ")
    if show:
        _write((stream.rest() if stream else "") + "\n")
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
    from mpi_spp.instruments.report.guidance import sequences_of
    from mpi_spp.instruments.report.summary import print_tables, summarize
    from mpi_spp.instruments.report.tables import reports

    sequences, generation = sequences_of(ranks), request["generation"]
    answer = {
        "text": stream.text(token_ids) if stream else None,
        "token_ids": token_ids,
        "prompt_tokens": len(request["prompt_ids"]),
        "chunks": sequences[0]["chunks"] if sequences else request["chunks"],
        "guidance": sequences or None,
        "choice": request["choice"],
        "finish_reason": "stop" if token_ids[-1] in generation.stop_ids else "length",
        **generation.told(),
    }
    summary = summarize(ranks, answer, asdict(config), total_s)
    print_tables(summary, reports())
    write_json(config.json, summary)
