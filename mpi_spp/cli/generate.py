"""`mpi-spp generate`: answer one prompt on all ranks."""

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpi_spp import registry
from mpi_spp.config import CUDA_AWARE, DEVICES, DTYPES, GRANULARITIES, RunConfig, default_of
from mpi_spp.errors import UserError

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.engine import Engine
    from mpi_spp.model.prompt import TextStream

log = logging.getLogger("mpi_spp.generate")


def option(name: str, help_text: str, **settings: Any) -> Any:
    """A click option with the default of RunConfig's field of the same name."""
    default = default_of(name.strip("-").split("/")[0].replace("-", "_"))
    if default == ():
        default = None  # click would read a tuple as several values
    return click.option(name, default=default, help=help_text, show_default=default is not None, **settings)


def _parse_gpu_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        return ()
    try:
        ids = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no comma-separated list of numbers, such as 5,6,7") from None
    if min(ids) < 0:
        raise click.BadParameter(f"{value!r} has a negative id")
    return ids


@click.command("generate")
@click.option("--model", required=True, help="A model directory, a model of the local store, or a hub name.")
@option("--prompt", "The prompt.")
@option("--prompt-file", "A UTF-8 file that holds the prompt.", type=click.Path())
@option("--prompt-ids", "A JSON file: a list of token ids, used as they are.", type=click.Path())
@option("--chat/--no-chat", "Use the model's chat template.  [default: when it has one]")
@option("--system", "The system message of the chat.")
@option("--max-new-tokens", "The longest answer, in tokens.", type=int)
@option("--ignore-eos", "Go on after the stop token.", is_flag=True)
@option("--chunk-size", "Prompt tokens in a chunk of the prefill.", type=int)
@option("--sync-strategy", "How the KV cache reaches all ranks.", type=click.Choice(registry.choices("sync")))
@option("--sync-granularity", "Sync after every layer, every chunk, or once.", type=click.Choice(GRANULARITIES))
@option("--dtype", "auto: the checkpoint's own.", type=click.Choice(DTYPES))
@option("--device", "auto: a GPU where there is one.", type=click.Choice(DEVICES))
@option("--gpu-ids", "GPUs of each host, one a rank: 5,6,7.", callback=_parse_gpu_ids)
@option("--cuda-aware", "Whether MPI reads GPU memory.", type=click.Choice(CUDA_AWARE))
@option("--threads", "Threads of each rank.  [default: the rank's share of its cores]", type=int)
@option("--log-dir", "Write rankR.log for every rank into this directory.", type=click.Path())
@option("--json", "Write the answer and all measurements to this file; - is standard output.", type=click.Path())
def command(**options: Any) -> None:
    """Answer one prompt on all ranks: pipelined prefill, KV sync, replicated decode.

    The answer goes to standard output as it is made, everything else to standard error.
    """
    from mpi_spp.report.timings import Clock

    clock = Clock()
    config = RunConfig(**options)
    from mpi_spp.comm.world import the_world

    world = the_world()
    run(config, world, clock)


def run(config: RunConfig, world: "World", clock: Any) -> None:
    """Prepare on rank 0, load on all, stream the answer, report. Collective."""
    from mpi_spp.model.locate import locate
    from mpi_spp.report.logs import log_to_directory

    if config.log_dir is not None:
        world.together(lambda: log_to_directory(str(config.log_dir), world.rank))
    log.info("rank %d of %d on %s: %s", world.rank, world.size, world.host, config)
    world.together(lambda: world.local_rank == 0 and locate(config.model, download=True))
    directory = world.together(lambda: locate(config.model, download=False))
    from mpi_spp.engine import Engine, load_strategies  # imports torch: what is wrong above is said a second sooner

    load_strategies(config)
    request, stream = _prepare(config, world, directory)
    engine = Engine(config, request["model"], directory, world, clock)
    token_ids = _stream_answer(engine, request, stream, config)
    clock.mark("total")
    ranks = world.gather(engine.facts())
    if world.rank == 0:
        _report(config, request, stream, token_ids, ranks, clock.moments["total"])


def _prepare(config: RunConfig, world: "World", directory: Path) -> tuple[dict[str, Any], "TextStream | None"]:
    """What rank 0 reads for all: the model's shape, the prompt's ids, the stop ids; and its own text stream."""
    stream = None

    def read() -> dict[str, Any]:
        nonlocal stream
        from transformers.utils import logging as transformers_logging

        from mpi_spp.model.config import read_config
        from mpi_spp.model.prompt import TextStream, load_tokenizer, prompt_token_ids, stop_token_ids

        transformers_logging.set_verbosity_error()
        _check_writable(config.json)
        model = read_config(directory)
        if world.size > model.num_hidden_layers:
            raise UserError(
                f"{world.size} ranks, but {config.model} has {model.num_hidden_layers} layers;"
                f" start {model.num_hidden_layers} ranks or fewer"
            )
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


def _check_writable(json_path: str | None) -> None:
    """Refuse before the work what could not be kept after it."""
    if json_path in (None, "-"):
        return
    path = Path(str(json_path))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--json: {path} cannot be written; give a file in a directory that you may write to")


def _stream_answer(
    engine: "Engine", request: dict[str, Any], stream: "TextStream | None", config: RunConfig
) -> list[int]:
    """Show the tokens as they come; ids where there is no tokenizer."""
    show = engine.world.rank == 0 and config.json != "-"
    token_ids: list[int] = []
    for token in engine.generate(request["prompt_ids"], request["stop_ids"], request["max_new_tokens"]):
        token_ids.append(token)
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
        "finish_reason": "stop" if token_ids[-1] in request["stop_ids"] else "length",
    }
    summary = summarize(ranks, answer, asdict(config), total_s)
    print_tables(summary, Console(stderr=True))
    if config.json == "-":
        print(json.dumps(summary, indent=1))
    elif config.json is not None:
        Path(config.json).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
