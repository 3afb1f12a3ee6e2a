"""The batch script that runs a command on the nodes of a Slurm cluster: the only place that knows Slurm's options.

The options are those of `man sbatch` and `man srun`, Slurm 22.05 and newer.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from mpi_spp.errors import UserError
from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.line import LaunchRequest, ranks_by_host

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}", re.ASCII)
_NAME = re.compile(r"[\w.,@+-]+", re.ASCII)
_SECONDS_BETWEEN_SIGNS = 10.0  # of life; sbatch answers within a second, and waits long for a controller that is down


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What Slurm is asked for, in its own words. Raises UserError for what cannot stand in a script."""

    nodes: int | None = None  # None: one, or the hosts of the request
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    gpus_per_node: int | None = None
    mpi: str = "pmix"

    def __post_init__(self) -> None:
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UserError(f"--time: {self.time!r} is no time limit; give minutes, HH:MM:SS or DAYS-HH:MM:SS")
        for name in ("partition", "account", "mpi"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise UserError(f"--{name}: {value!r} is no name; give one that the cluster knows (see `sinfo`)")

    def default_num_ranks(self, hosts: tuple[Host, ...]) -> int:
        """All slots of the hosts, else one rank for each GPU, else one for each node."""
        return sum(host.slots for host in hosts) or (self.nodes or 1) * (self.gpus_per_node or 1)


def batch_script(request: LaunchRequest, asked: Allocation) -> str:
    """The script for sbatch. The hosts of the request are the nodes to take, in any order.

    Raises UserError where Slurm would spread the ranks over the hosts in another way than was asked for.
    """
    nodes, threads = _nodes(request, asked), request.threads or 1
    options = {
        "job-name": "mpi-spp",
        "nodes": nodes,
        "nodelist": ",".join(host.name for host in request.hosts) or None,
        "ntasks": request.num_ranks,
        "ntasks-per-node": -(-request.num_ranks // nodes),
        "cpus-per-task": threads,
        "hint": "nomultithread",  # two threads of arithmetic on one core are slower than one
        "gpus-per-node": asked.gpus_per_node,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
    }
    # srun does not take --cpus-per-task over from sbatch.
    srun = ["srun", f"--mpi={asked.mpi}", f"--cpus-per-task={threads}", *request.command]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None),
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in _exports(request).items()),
        f"export OMP_NUM_THREADS={threads}",
        "",
        shlex.join(srun),
    ]
    return "\n".join(lines) + "\n"


def _exports(request: LaunchRequest) -> dict[str, str]:
    """There is no launcher to take the interface as an option: Open MPI and libfabric read it themselves."""
    network = request.interface
    if network is None:
        return dict(request.exports)
    by_name = {} if "/" in network else {"FI_TCP_IFACE": network}
    return {**request.exports, "OMPI_MCA_btl_tcp_if_include": network, **by_name}


def submit(script: str) -> int:
    """Hand the script to sbatch, which says the job's number on standard output; its exit status is returned.

    While it takes long, a line on standard error now and then says so; it is for the user to wait, or to press Ctrl-C.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UserError(
            "sbatch: not found on PATH; start this on a login node of the cluster, or print the script with --dry-run"
        )
    with tempfile.TemporaryFile("w+") as file:
        file.write(script)
        file.seek(0)
        return _await(subprocess.Popen([sbatch], stdin=file))


def _await(sbatch: "subprocess.Popen[bytes]") -> int:
    """Its exit status."""
    began = time.monotonic()
    while True:
        try:
            return sbatch.wait(_SECONDS_BETWEEN_SIGNS)
        except subprocess.TimeoutExpired:
            taken = f"sbatch has not answered for {time.monotonic() - began:.0f} s"
            hint = "`scontrol ping` tells whether Slurm's controller does"
            print(f"mpi-spp: {taken}; still waiting ({hint})", file=sys.stderr, flush=True)


def _nodes(request: LaunchRequest, asked: Allocation) -> int:
    """How many; Slurm fills them evenly, the first ones with one rank more."""
    hosts, ranks = request.hosts, request.num_ranks
    if hosts and asked.nodes is not None:
        raise UserError("--nodes: given with --hostfile; leave one of them out")
    nodes = len(hosts) or asked.nodes or 1
    if nodes > ranks:
        raise UserError(f"--nodes: {nodes} nodes for {ranks} ranks; give -np {nodes} or more, or fewer nodes")
    wanted = [host.slots for host in ranks_by_host(ranks, hosts)]
    if hosts and max(wanted) - min(wanted) > 1:
        raise UserError(
            f"--hostfile: its slots are {','.join(map(str, wanted))} of {ranks} ranks, but Slurm spreads them evenly;"
            " give equal slots"
        )
    return nodes
