"""What a command says before it works."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi_spp.engine.engine import Engine
    from mpi_spp.model.text.generation import Generation


def show_choice(engine: "Engine", generation: "Generation | None" = None) -> None:
    """Say on standard error, from rank 0, what was chosen where "auto" was asked for, and what may be slow.

    `generation`: what the model's generation_config.json changes is said, too.
    """
    if engine.world.rank > 0:
        return
    from mpi_spp.instruments.report.tables import tell

    chosen = [] if engine.choice is None else [f"chosen {engine.choice['reason']}"]
    told = generation and generation.line()
    for line in [*chosen, *([told] if told else []), *(f"warning: {warning}" for warning in engine.warnings)]:
        tell(f"mpi-spp: {line}", sys.stderr)
