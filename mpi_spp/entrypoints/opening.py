"""From a configuration to an engine on all ranks, in steps that each end in agreement."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_spp.comm.environment import limit
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError

if TYPE_CHECKING:
    from mpi_spp.comm.world import World
    from mpi_spp.engine.engine import Engine
    from mpi_spp.model.config import ModelConfig
    from mpi_spp.system.timings import Clock

log = logging.getLogger("mpi_spp")


def join(config: RunConfig) -> "World":
    """The job that this rank belongs to, with a limit to its waits. Collective."""
    from mpi_spp.comm.world import the_world

    return the_world(limit(config.timeout))


def find_model(config: RunConfig, world: "World") -> Path:
    """Open the logs and find the model's directory; one rank of each host fetches it from the hub. Collective."""
    from mpi_spp.comm.world import while_alive
    from mpi_spp.model.loading.locate import locate
    from mpi_spp.system.logs import end_logs, log_to_directory

    end_logs()
    if config.log_dir is not None:
        world.together(lambda: log_to_directory(str(config.log_dir), world.rank))
    log.info("rank %d of %d on %s: %s", world.rank, world.size, world.host, config)
    world.together(lambda: world.local_rank == 0 and while_alive(lambda: locate(config.model, download=True)))
    return world.together(lambda: locate(config.model, download=False))


def read_model(directory: Path) -> "ModelConfig":
    """The model's shape. Meant for rank 0."""
    from transformers.utils import logging as transformers_logging

    from mpi_spp.model.config import read_config

    transformers_logging.set_verbosity_error()
    return read_config(directory)


def open_engine(config: RunConfig, world: "World", clock: "Clock", prompt_tokens: int = 1024) -> "Engine":
    """An engine for work that brings its own token ids. Collective; raises UserError where they would be too many."""
    directory = find_model(config, world)
    model = world.on_rank_0(lambda: read_model(directory))
    if prompt_tokens + config.max_new_tokens > model.max_positions:
        raise UserError(
            f"--prompt-tokens: {prompt_tokens} with --new-tokens {config.max_new_tokens} is more than the"
            f" {model.max_positions} positions of {config.model}; give fewer"
        )
    return make_engine(config, model, directory, world, clock, prompt_tokens)


def make_engine(
    config: RunConfig,
    model: "ModelConfig",
    directory: Path,
    world: "World",
    clock: "Clock",
    prompt_tokens: int = 1024,
    alone: bool = False,
) -> "Engine":
    """An engine that may choose strategies by what was measured; the arguments are those of `Engine`. Collective."""
    from mpi_spp.engine.engine import Engine
    from mpi_spp.forecast.resolve import Resolver

    return Engine(config, model, directory, world, clock, prompt_tokens, alone, Resolver())
