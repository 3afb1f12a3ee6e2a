"""Files that only the process that the user has started can open: standard input, and `<(...)` of a shell.

Launchers take standard input to hand it to rank 0, though the user may have meant it for the next command; Open MPI 5
never hands on its end; and all close other descriptors. So `launch` gives them nothing to read. It reads what such a
file has, into one without a name, which is open as long as this process runs: rank 0 finds it there, nobody else may,
and nothing is left behind.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host, is_this_machine
from mpi_spp.system.files import MIB, STANDARD_INPUT

_OPTIONS = ("prompt_file", "prompt_ids", "document", "questions", "input")  # which rank 0 reads
_OURS_ALONE = re.compile(r"/dev/fd/\d+|/proc/self/fd/\d+")
_MOST_BYTES, _PIECE_BYTES = 4096 * MIB, 1 << 20


def handed_in(values: Mapping[str, Any]) -> dict[str, str]:
    """The files of a command's options that no rank could open, by the option."""
    named = {f"--{name.replace('_', '-')}": str(values[name]) for name in _OPTIONS if values.get(name) is not None}
    return {option: path for option, path in named.items() if path in STANDARD_INPUT or _OURS_ALONE.fullmatch(path)}


def refuse_elsewhere(files: Mapping[str, str], hosts: tuple[Host, ...], by_scheduler: bool) -> None:
    """Raise UserError where rank 0 will not run on this machine, which alone can read them."""
    for option, path in files.items():
        if by_scheduler:
            raise UserError(f"{option}: {path} cannot be read by a job that starts later; give a file that stays")
        if hosts and not is_this_machine(hosts[0].name):
            raise UserError(
                f"{option}: {path} cannot be read on {hosts[0].name}, where rank 0 runs;"
                " give a file that is there, or put this machine first in the hostfile"
            )


def keep_for_rank_0(files: Mapping[str, str]) -> tuple[str, ...]:
    """Read them to their end; options and paths to put in their place, which hold as long as this process is there."""
    return tuple(word for option, path in files.items() for word in (option, _kept(option, path)))


def _kept(option: str, path: str) -> str:
    try:
        descriptor = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY)
        with open(descriptor, "rb", buffering=0) as given, tempfile.TemporaryFile(buffering=0) as copy:
            _copy(given, copy, f"{option}: {path}")
            kept = os.dup(copy.fileno())
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be read ({error.strerror}); give a file") from None
    return f"/proc/{os.getpid()}/fd/{kept}"


def _copy(given: IO[bytes], copy: IO[bytes], source: str) -> None:
    taken = 0
    while piece := given.read(_PIECE_BYTES):
        taken += len(piece)
        if taken > _MOST_BYTES:
            raise UserError(f"{source} has more than {_MOST_BYTES // MIB} MiB; give a file that rank 0 can open")
        copy.write(piece)
