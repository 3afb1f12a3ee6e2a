"""Results as JSON, and tables: refused before the work if they could not be kept after it."""

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from mpi_spp.cli._streams import require_stdout
from mpi_spp.comm.environment import launched_size
from mpi_spp.errors import AgreedExit
from mpi_spp.system.outputs import require_different, require_name, require_writable, write_text

if TYPE_CHECKING:
    from mpi_spp.comm.world import World


def check_outputs(json: str | None, also_read: dict[str, Any] | None = None, shows: bool = True, **others: Any) -> None:
    """Raise UserError when what options name cannot be written, or one of them is another, or is what is read.

    `others`: by the option's name, such as `plot`, or the argument's; `also_read`: files by how errors name them;
    `shows`: whether standard output gets something, too.
    """
    written = {"--json": json} | {name if name.isupper() else f"--{name}": path for name, path in others.items()}
    require_different(written, also_read or {})
    for option, path in written.items():
        if option != "--json":
            require_name(option, path)
        if path is not None and str(path) != "-":
            require_writable(option, path)
    if shows or json == "-":
        require_stdout()


def may_share_terminal() -> bool:
    """Whether standard output may be on the terminal where standard error is too: a launcher hides where they go."""
    return sys.stdout.isatty() or launched_size() > 1


def write_json(path: str | None, value: Any) -> None:
    """Write what `--json` asked for: to a file, to standard output for "-", nowhere for None."""
    text = json.dumps(value, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    elif path is not None:
        write_text("--json", path, text)


def leave_with(world: "World", status: int) -> NoReturn:
    """End all ranks with this status when all have spoken: launchers end the job when one leaves with any but 0."""
    sys.stdout.flush()
    world.agree()
    raise AgreedExit(status)
