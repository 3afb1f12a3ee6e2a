"""`--trace` and `--trace-messages` of every command that runs a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mpi_spp.cli._output import check_writable
from mpi_spp.config import RunConfig

if TYPE_CHECKING:
    from mpi_spp.comm.world import World


@contextmanager
def traced(config: RunConfig, world: "World") -> Iterator[None]:
    """Trace what the ranks do while it is open, if the options ask for it. Collective.

    Raises UserError when the file could not be written at the end, before anything is done.
    """
    if config.trace is None and not config.trace_messages:
        yield
        return
    from mpi_spp.tracing import tracing

    world.on_rank_0(lambda: check_writable(config.trace, "--trace"))
    with tracing(world, None if config.trace is None else Path(config.trace), config.trace_messages):
        yield
