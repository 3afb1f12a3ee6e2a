"""The command line: one click command a file, loaded when it is used."""

import gc
import importlib
import os
import pkgutil
import signal
import sys
import traceback
from typing import NoReturn

import click

from mpi_spp import __version__
from mpi_spp.cli._debug import wait_for_debugger_if_asked
from mpi_spp.cli._streams import OutputLost, take_streams
from mpi_spp.comm.environment import launched_rank, launched_size, limit
from mpi_spp.config import default_of
from mpi_spp.errors import AgreedExit, UserError
from mpi_spp.launch.completion_marker import give_sign, take_sign
from mpi_spp.system import cpu

# Of objects made and not freed, before Python looks for garbage. At its usual 700 that takes a tenth of the time to the
# first token, since imports make a million objects that stay.
_OBJECTS_TO_COLLECT = 50_000
# What click raises from 8.2 on for a group without a command; before, it showed the help itself.
_NO_WORDS: tuple[type, ...] = tuple(filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)]))


class CommandsByFile(click.Group):
    """A group whose commands are the modules of this package; `bench_comm.py` would be `bench-comm`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            module.name.replace("_", "-")
            for module in pkgutil.iter_modules(__path__)
            if not module.name.startswith("_")
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"mpi_spp.cli.{cmd_name.replace('-', '_')}").command


@click.group(cls=CommandsByFile, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpi-spp")
def commands() -> None:
    """Run a Hugging Face decoder language model over MPI ranks, on CPUs and GPUs."""


def main() -> NoReturn:
    """Run one command on this rank and leave with its status: 0, 2 for bad input, 1 for any other failure.

    Ctrl-C and the launcher's signals end the process at once, wherever it is: inside MPI or torch too. Where standard
    output cannot be written the status is 2, or as after SIGPIPE when its reader has left.
    """
    take_streams()
    sign = take_sign()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # the end of the interpreter could not say that it fails
    except OutputLost as lost:
        _leave_without_output(lost)
    except SystemExit as leave:
        if sign and (not leave.code or isinstance(leave, AgreedExit)):
            _leave_by_sign(sign, int(leave.code or 0))
        raise


def _leave_by_sign(sign: str, status: int) -> NoReturn:
    """Tell `launch` the status and leave with 0: of any other one launchers write a paragraph."""
    if launched_rank() == 0:
        give_sign(sign, status)
    sys.exit(0)


def _run() -> NoReturn:
    gc.set_threshold(_OBJECTS_TO_COLLECT)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if launched_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends): help and version texts come from one rank
    try:
        cpu.believed()  # refuses a word that is none
        wait_for_debugger_if_asked()
        commands(prog_name="mpi-spp", standalone_mode=False)
        _leave()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.UsageError as error:
        if isinstance(error, _NO_WORDS):  # whose message is the help
            click.echo(error.format_message())
            sys.exit(0)
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _leave_with(UserError(error.format_message() + hint))
    except UserError as error:
        _leave_with(error)
    except OutputLost:
        raise
    except Exception:
        _abort()
    sys.exit(0)


def _leave() -> None:
    """Wait for the others, if this command has met them."""
    if "mpi_spp.comm.world" in sys.modules:
        from mpi_spp.comm.world import leave

        leave()


def _leave_with(error: UserError) -> NoReturn:
    """Say what is wrong from one rank, and end all ranks with status 2."""
    if launched_size() > 1:
        try:
            from mpi_spp.comm.world import leave_together
        except UserError as no_mpi:
            error = no_mpi
        else:
            leave_together(error, limit(default_of("timeout")))
    if launched_rank() == 0:
        print(f"mpi-spp: error: {error}", file=sys.stderr, flush=True)
    raise AgreedExit(2)


def _leave_without_output(lost: OutputLost) -> NoReturn:
    """Say so, unless a reader has seen what it wanted and left; other ranks are in the middle of their work."""
    if not lost.reader_has_left:
        print(f"mpi-spp: error: {lost}", file=sys.stderr, flush=True)
    if launched_size() > 1:
        from mpi_spp.comm.world import abort

        abort(lost.status)
    sys.exit(lost.status)


def _abort() -> NoReturn:
    """Show the traceback of this rank and end all ranks with status 1."""
    where = f"[rank {launched_rank()}] " if launched_size() > 1 else ""
    print(where + traceback.format_exc(), file=sys.stderr, flush=True)
    if launched_size() > 1:
        from mpi_spp.comm.world import abort

        abort(1)
    sys.exit(1)
