"""`mpi-spp serve`: an OpenAI-compatible server over all ranks."""

import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import (
    chat_options,
    json_option,
    model_options,
    penalty_options,
    run_option,
    sampling_options,
    schedule_options,
)
from mpi_spp.cli._output import leave_with, write_json
from mpi_spp.cli._start import show_choice
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.opening import find_model, join, make_engine, read_model
from mpi_spp.errors import UserError

if TYPE_CHECKING:
    from mpi_spp.batch.encoder import Encoder
    from mpi_spp.comm.world import World
    from mpi_spp.entrypoints.openai.bridge import Bridge
    from mpi_spp.model.config import ModelConfig

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MANY = 1 << 16


@dataclass(frozen=True)
class Serving:
    """Where the server listens, for whom, and how many it answers at once."""

    host: str
    port: int
    api_key: tuple[str, ...]
    insecure: bool
    served_model_name: str | None
    cors_origin: tuple[str, ...]
    max_num_seqs: int
    max_queue: int
    grace: int

    def __post_init__(self) -> None:
        if self.host not in _LOOPBACK and not self.api_key and not self.insecure:
            raise UserError(
                f"--host: {self.host} lets others in without a key; give --api-key, or --insecure where all may ask"
            )
        if "" in self.api_key:
            raise UserError("--api-key: is empty; give a secret")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address of rank 0 to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--api-key", multiple=True, envvar="MPI_SPP_API_KEY", help="Clients must send it; may be repeated.", metavar="KEY"
)
@click.option("--insecure", is_flag=True, help="Let anyone in who reaches --host.")
@click.option("--served-model-name", help="What clients call the model.  [default: as --model]")
@click.option("--cors-origin", multiple=True, help="Pages from there may ask; may be repeated.", metavar="ORIGIN")
@click.option(
    "--max-num-seqs", default=8, show_default=True, type=click.IntRange(1, _MANY), help="Answers made at once."
)
@click.option("--max-queue", default=256, show_default=True, type=click.IntRange(1, _MANY), help="Requests that wait.")
@click.option(
    "--grace", default=30, show_default=True, type=click.IntRange(0, 3600), help="Seconds to finish after SIGTERM."
)
@chat_options
@run_option("--system", "The system message of chats that bring none.")
@run_option("--max-new-tokens", "The longest answer, in tokens, where a request does not say.", type=int)
@sampling_options
@penalty_options
@schedule_options()
@model_options
@json_option("Write counts to this file at the end;")
def command(
    host: str,
    port: int,
    api_key: tuple[str, ...],
    insecure: bool,
    served_model_name: str | None,
    cors_origin: tuple[str, ...],
    max_num_seqs: int,
    max_queue: int,
    grace: int,
    **options: Any,
) -> None:
    """Serve a model over HTTP as OpenAI's API has it: chat completions and completions, streaming or not.

    Rank 0 listens, all ranks compute, and requests come and go at any time. SIGTERM or Ctrl-C to `mpi-spp launch`, or
    to rank 0, finishes the answers under way and ends all ranks.
    """
    asked = (host, port, api_key, insecure, served_model_name, cors_origin, max_num_seqs, max_queue, grace)
    config, serving = RunConfig(**options), Serving(*asked)
    world = join(config)
    run(config, serving, world)
    leave_with(world, 0)


def run(config: RunConfig, serving: Serving, world: "World") -> None:
    """Listen, load, answer until somebody ends it. Collective."""
    from mpi_spp.parallel.mesh import mesh_of, require_one_replica

    require_one_replica(mesh_of(config.mesh, world.size))
    made: list[tuple[socket.socket, Encoder, Encoder]] = []

    def prepare() -> "ModelConfig":
        model = read_model(directory)
        made.append(_prepared(config, serving, model, directory))
        return model

    world.on_rank_0(lambda: _require_packages())
    directory = find_model(config, world)
    model = world.on_rank_0(prepare)
    from mpi_spp.engine.loop import Loop
    from mpi_spp.engine.scheduler import Scheduler
    from mpi_spp.entrypoints.openai.bridge import Bridge
    from mpi_spp.system.timings import Clock

    engine = make_engine(config, model, directory, world, Clock())
    show_choice(engine)
    bridge = Bridge(world, engine.comm, serving.max_queue)
    _end_on_signals(lambda: bridge.close(serving.grace))
    loop = Loop(engine, bridge, Scheduler(serving.max_num_seqs, ticks=1), fail=bridge.fail)
    counts = {"new_tokens": 0}

    def answer() -> None:
        for number, token in loop.tokens():
            counts["new_tokens"] += 1
            bridge.deliver(number, token)

    if world.rank == 0:
        _serve(serving, config, model, made[0], bridge, answer)
    else:
        answer()
    world.on_rank_0(lambda: write_json(config.json, counts))


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serve: needs the extra `serve` ({error}); pip install 'mpi-spp[serve]'") from None


def _prepared(
    config: RunConfig, serving: Serving, model: "ModelConfig", directory: Path
) -> "tuple[socket.socket, Encoder, Encoder]":
    """The socket, and what reads chats and texts. For rank 0."""
    from mpi_spp.batch.encoder import Encoder
    from mpi_spp.entrypoints.openai.server import bind

    chat = Encoder(config, model, directory)
    if chat.stream() is None:
        raise UserError(f"--model: {config.model} has no tokenizer, without which nothing can be served; add its files")
    text = replace(config, chat=False, system=None, chat_template_kwargs=None)
    return bind(serving.host, serving.port), chat, Encoder(text, model, directory)


def _serve(
    serving: Serving,
    config: RunConfig,
    model: "ModelConfig",
    made: "tuple[socket.socket, Encoder, Encoder]",
    bridge: "Bridge",
    answer: Callable[[], None],
) -> None:
    """Answer on rank 0, with a server beside it."""
    import time

    from mpi_spp.entrypoints.openai.app import Limits, make_app
    from mpi_spp.entrypoints.openai.protocol import Reader
    from mpi_spp.entrypoints.openai.server import address_of
    from mpi_spp.entrypoints.openai.server import serving as at_socket

    opened, chat, text = made
    name = serving.served_model_name or config.model
    told = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mpi-spp"}
    told |= {"max_model_len": model.max_positions}

    def stream() -> Any:
        return text.stream()

    app = make_app(Reader(chat, text, name), bridge, stream, told, Limits(serving.api_key, serving.cors_origin))
    with at_socket(app, opened):
        print(f"mpi-spp: serving {name} at {address_of(opened)}; Ctrl-C ends it", file=sys.stderr, flush=True)
        answer()


def _end_on_signals(close: Callable[[], None]) -> None:
    """They may reach all ranks, or some: rank 0 ends all, the others wait for it to do so. See launch/supervisor.py."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: close())
