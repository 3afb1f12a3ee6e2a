"""`mpi-spp doctor`: what is wrong with the machines of a job, and what to do about it."""

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from mpi_spp.cli._options import TOKENS, json_option, timeout_option
from mpi_spp.cli._output import check_outputs, write_json
from mpi_spp.comm.environment import launched_rank, launched_size, limit
from mpi_spp.config import MOST_THREADS
from mpi_spp.errors import AgreedExit
from mpi_spp.launch.placement import local_numbers

if TYPE_CHECKING:
    from mpi_spp.instruments.doctor.finding import Finding


@click.command("doctor")
@click.option("--model", help="Also look whether every host can read this model, and whether it fits.")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="Threads of each rank.  [default: its share of its cores]"
)
@click.option("--prompt-tokens", type=TOKENS, default=1024, show_default=True, help="Of the prompt.")
@click.option("--new-tokens", type=TOKENS, default=128, show_default=True, help="Of the answer.")
@click.option(
    "--forget", is_flag=True, help="First delete what was measured on each host, so that the next runs measure anew."
)
@timeout_option
@json_option("Write the findings as a list to this file;")
def command(
    model: str | None,
    threads: int | None,
    prompt_tokens: int,
    new_tokens: int,
    forget: bool,
    timeout: int,
    json: str | None,
) -> None:
    """Look at this machine, or at all machines of a job: mpi-spp launch -np 3 --hostfile F -- doctor --model M

    Each finding has a level and what to do: ok, note, warning (slower than need be), failure (something will not run).
    Status 1 when there is a failure.
    """
    from mpi_spp.instruments.doctor.examine import examine
    from mpi_spp.instruments.doctor.finding import exit_status
    from mpi_spp.instruments.doctor.job import Question, ask

    if forget and (local_numbers(os.environ) or (0, 1))[0] == 0:
        _forget()
    job, world = ask(Question(model, threads, prompt_tokens, new_tokens, limit(timeout)))
    check = partial(check_outputs, json)
    if world is not None:
        world.on_rank_0(check)
    elif launched_rank() == 0:
        check()
    findings = examine(job)
    if world is None and launched_rank() > 0:
        _leave_quietly(findings)
    if launched_rank() == 0:
        _show([finding.as_data() for finding in findings], len(job.ranks), json)
    if world is not None:
        from mpi_spp.comm.world import leave

        leave()  # launchers end the job when a rank leaves: rank 0 must have spoken by then
        raise AgreedExit(exit_status(findings))
    sys.exit(exit_status(findings))


def _forget() -> None:
    """On this host; others that share its cache folder find nothing any more."""
    from mpi_spp.kernels.memory import forget
    from mpi_spp.model.loading.hub import cache_directory

    directory = cache_directory() / "kernels"
    names = ", ".join(forget(directory)) or "nothing that was measured"
    where = f"on {os.uname().nodename}, " * (launched_size() > 1)
    print(f"mpi-spp: {where}forgotten in {directory}: {names}", file=sys.stderr, flush=True)


def _leave_quietly(findings: list["Finding"]) -> NoReturn:
    """Each process is alone: the first one speaks. Only what it cannot see, on another host, ends the job there."""
    local_rank, _ = local_numbers(os.environ) or (0, 1)
    fatal = next((one for one in findings if one.id == "shm" and one.level.name == "FAILURE"), None)
    if fatal is None or local_rank > 0:
        sys.exit(0)
    print(f"mpi-spp: error: {', '.join(fatal.hosts)}: {fatal.what}; {fatal.do}", file=sys.stderr, flush=True)
    sys.exit(1)


def _show(findings: list[dict[str, object]], num_ranks: int, json: str | None) -> None:
    if json != "-":
        from mpi_spp.instruments.report.findings import print_findings
        from mpi_spp.instruments.report.tables import console

        print_findings(findings, num_ranks, console(sys.stdout, markup=True))
    write_json(json, findings)
    sys.stdout.flush()
