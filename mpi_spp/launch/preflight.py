"""Whether the other hosts can start ranks, asked before mpirun is: its own words for a host that cannot fill a page."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host, is_this_machine
from mpi_spp.launch.launcher import Launcher

_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 30
_AT_ONCE = 32
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}")
_SSH_FAILED = 255
# Inside a batch job launchers ask the batch system for ranks: Slurm, PBS, LSF, Grid Engine, Flux.
_BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "PE_HOSTFILE", "FLUX_JOB_ID")
# How users name another way than ssh, in a launcher's options and in variables: Open MPI; MPICH; Intel MPI.
_OTHER_WAYS = ("plm", "launcher", "bootstrap")
_VENDORS_VARIABLES = ("OMPI_MCA_", "PRTE_MCA_", "HYDRA_", "I_MPI_")


def require_hosts(hosts: Sequence[Host], launcher: Launcher, environment: Mapping[str, str] = os.environ) -> None:
    """Raise UserError unless every other host lets us in by ssh without a question, and has this Python.

    Nothing is asked where launchers start ranks in another way than by ssh.
    """
    names = [host.name for host in hosts if not is_this_machine(host.name)]
    if not names or _starts_without_ssh(launcher, environment):
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        complaints = [found for found in pool.map(_complaint, names) if found is not None]
    if complaints:
        others = f" (and {len(complaints) - 1} more like it)" if complaints[1:] else ""
        raise UserError(f"--hostfile: {complaints[0]}{others}")


def _starts_without_ssh(launcher: Launcher, environment: Mapping[str, str]) -> bool:
    if any(name in environment for name in _BATCH_JOBS):
        return True
    named = [*launcher.command[1:], *(name for name in environment if name.startswith(_VENDORS_VARIABLES))]
    return any(way in word.lower() for word in named for way in _OTHER_WAYS)


def _complaint(name: str) -> str | None:
    """What is wrong with a host, and the way out; None when it is ready."""
    asked = [*_SSH, name, f"test -x {shlex.quote(sys.executable)}"]
    try:
        answer = subprocess.run(
            asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_ANSWER_SECONDS
        )
    except FileNotFoundError:
        return f"{name} cannot be reached, since there is no ssh on PATH; install it"
    except subprocess.TimeoutExpired:
        return f"{name} did not answer ssh within {_ANSWER_SECONDS} s; see what `ssh {name} true` waits for"
    if answer.returncode == _SSH_FAILED:
        reason = (answer.stderr.strip().splitlines() or ["it does not say why"])[-1].strip().rstrip(".")
        return f"{name} cannot be reached by ssh ({reason}); make `ssh {name} true` work without a question"
    if answer.returncode != 0:
        return f"{name} has no {sys.executable}; every host needs this Python under the same path"
    return None
