"""What every command that runs a model writes besides its answers, and `--trace` and `--trace-messages`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi_spp.cli._output import check_outputs
from mpi_spp.config import RunConfig, option_name

if TYPE_CHECKING:
    from mpi_spp.comm.world import World

_READ = ("prompt_file", "prompt_ids", "document", "questions")


@contextmanager
def traced(
    config: RunConfig, world: "World", also_read: dict[str, Any] | None = None, **outputs: Any
) -> Iterator[None]:
    """Trace what the ranks do while it is open, if the options ask for it. Collective.

    Raises UserError when the files of --json and --trace, or others that are written, could not be at the end, before
    anything is done. `also_read`, `outputs`: see `check_outputs`.
    """
    read = {option_name(name): getattr(config, name) for name in _READ} | (also_read or {})
    world.on_rank_0(lambda: check_outputs(config.json, read, trace=config.trace, **outputs))
    if config.trace is None and not config.trace_messages:
        yield
        return
    from mpi_spp.instruments.trace.recording import tracing

    with tracing(world, None if config.trace is None else Path(config.trace), config.trace_messages):
        yield
