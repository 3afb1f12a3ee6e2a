"""The mpirun line of every MPI, as a pure function."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpi_spp.errors import UserError
from mpi_spp.launch.cma import cma_is_refused
from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.launcher import Launcher
from mpi_spp.system import start

DEFAULT_RANKS_LIMIT = 4  # every rank of one machine decodes with its own copy of the weights
_ENDS_A_PROGRAM = ":"
# What a rank on another host must know too. MPICH and Intel MPI pass everything on, Open MPI nothing.
_PASSED_ON = ("MPI_SPP_", "HF_", "TRANSFORMERS_", "PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What to start where. `hosts` empty: this machine, or the hosts that a batch system gives to the launcher."""

    command: tuple[str, ...]
    num_ranks: int
    hosts: tuple[Host, ...] = ()
    threads: int | None = None  # of each rank; None: every host divides all its cores
    exports: Mapping[str, str] = field(default_factory=dict)  # variables that all ranks get
    passed_on: tuple[str, ...] = ()  # names of variables that ranks on other hosts get from here
    as_root: bool = False
    cma_refused: bool = False
    interface: str | None = None  # of each host, by which the ranks talk: eth1; or a subnet: 10.0.0.0/24


def request_here(
    command: tuple[str, ...],
    num_ranks: int,
    hosts: tuple[Host, ...] = (),
    threads: int | None = None,
    exports: Mapping[str, str] | None = None,
    interface: str | None = None,
) -> LaunchRequest:
    """The request, with what this machine says of itself. Raises UserError for a word that no launcher hands on."""
    return LaunchRequest(
        command=without_lone_colons(command),
        num_ranks=num_ranks,
        hosts=hosts,
        threads=threads,
        exports={"HWLOC_COMPONENTS": without_gl(os.environ.get("HWLOC_COMPONENTS", "")), **(exports or {})},
        passed_on=tuple(sorted(name for name in os.environ if name.startswith(_PASSED_ON))) if hosts else (),
        as_root=os.geteuid() == 0,
        cma_refused=cma_is_refused(),
        interface=interface,
    )


def without_lone_colons(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words, with `--prompt :` as `--prompt=:`, since a colon by itself is the end of a program for launchers.

    It is the only such word: all others reach the ranks as they are.
    """
    joined: list[str] = []
    for word in words:
        if word != _ENDS_A_PROGRAM:
            joined.append(word)
        elif joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            raise UserError("launch: a ':' by itself separates programs for mpirun; write it within a longer word")
    return tuple(joined)


def without_gl(components: str) -> str:
    """hwloc's components less GL, which hangs in WSL and wherever something on port 6006 looks like an X server."""
    names = [name for name in components.split(",") if name]
    return ",".join(names if "-gl" in names else [*names, "-gl"])


def default_num_ranks(hosts: tuple[Host, ...], gpu_ids: tuple[int, ...], num_cores: int) -> int:
    """All slots of the hosts; else one rank for each GPU; else one for each core, up to DEFAULT_RANKS_LIMIT."""
    if hosts:
        return sum(host.slots for host in hosts)
    return len(gpu_ids) or min(num_cores, DEFAULT_RANKS_LIMIT)


def check_gpu_ids(gpu_ids: tuple[int, ...], num_ranks: int, hosts: tuple[Host, ...]) -> None:
    """Every host's ranks take the ids in order, so the fullest host needs an id for each of its ranks."""
    if len(set(gpu_ids)) < len(gpu_ids):
        raise UserError(f"--gpu-ids: {_joined(gpu_ids)} names a GPU twice; give each rank of a host its own")
    host = max(ranks_by_host(num_ranks, hosts), key=lambda host: host.slots)
    if gpu_ids and len(gpu_ids) < host.slots:
        raise UserError(
            f"--gpu-ids: {_joined(gpu_ids)} is too short for the {host.slots} ranks on {host.name};"
            " give one id for each of them"
        )


def check_max_slots(num_ranks: int, hosts: tuple[Host, ...]) -> None:
    """Raise UserError where a host would get more ranks than it takes at most."""
    for host, given in zip(hosts, ranks_by_host(num_ranks, hosts), strict=False):
        if host.max_slots is not None and given.slots > host.max_slots:
            raise UserError(
                f"-np: {num_ranks} ranks would be {given.slots} on {host.name}, which takes {host.max_slots} at most"
                " (max_slots of the hostfile); give fewer, or more hosts"
            )


def mpirun_line(request: LaunchRequest, launcher: Launcher) -> tuple[list[str], dict[str, str]]:
    """The arguments that start the ranks, and what the launcher's own environment needs besides."""
    options = {"openmpi": _open_mpi, "mpich": _mpich, "intel": _intel}[launcher.vendor]
    threads = [] if request.threads is None else ["--threads", str(request.threads)]
    placement = [*start.words("mpi_spp.launch.placement"), *threads]
    hwloc = {name: value for name, value in request.exports.items() if name == "HWLOC_COMPONENTS"}
    return [*launcher.command, *options(request, launcher.major), *placement, *request.command], hwloc


def _open_mpi(request: LaunchRequest, major: int) -> list[str]:
    hosts = ["--host", _host_list(request.hosts)] if request.hosts else []
    exports = [word for name, value in request.exports.items() for word in ("-x", f"{name}={value}")]
    passed_on = [word for name in request.passed_on if name not in request.exports for word in ("-x", name)]
    root = ["--allow-run-as-root"] if request.as_root else []
    through_shared_memory = ["smsc", "^cma"] if major >= 5 else ["btl_vader_single_copy_mechanism", "none"]
    copying = ["--mca", *through_shared_memory] if request.cma_refused else []
    placing = ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none"]
    # After Ctrl-C, Open MPI 4 gives the ranks a second to clean up; these have nothing to clean up and end at once.
    ending = ["--mca", "odls_base_sigkill_timeout", "0"] if major < 5 else []
    # Open MPI 5 would hold the answer back until a line ends.
    streaming = ["--output", ":raw"] if major >= 5 else []
    # Launcher and ranks have a choice each.
    starting = ["--prtemca", "prte_if_include"] if major >= 5 else ["--mca", "oob_tcp_if_include"]
    talking = (
        [*starting, request.interface, "--mca", "btl_tcp_if_include", request.interface] if request.interface else []
    )
    ranks = ["-np", str(request.num_ranks)]
    return [*ranks, *hosts, *talking, *placing, *exports, *passed_on, *root, *copying, *ending, *streaming]


def _mpich(request: LaunchRequest, major: int) -> list[str]:
    hosts = ["-hosts", _host_list(request.hosts)] if request.hosts else []
    copying = {"MPIR_CVAR_CH4_CMA_ENABLE": "0"} if request.cma_refused else {}
    ranks, talking = ["-n", str(request.num_ranks)], _hydra_interface(request)
    return [*ranks, *hosts, *talking, "-bind-to", "none", *_hydra_exports({**request.exports, **copying})]


def _intel(request: LaunchRequest, major: int) -> list[str]:
    # Without the comma at the end it takes a single `node1:2` for a name.
    hosts = ["-hosts", _host_list(request.hosts) + ","] if request.hosts else []
    ranks, talking = ["-n", str(request.num_ranks)], _hydra_interface(request)
    return [*ranks, *hosts, *talking, *_hydra_exports({"I_MPI_PIN": "0", **request.exports})]


def _hydra_interface(request: LaunchRequest) -> list[str]:
    if request.interface is None:
        return []
    if "/" in request.interface:
        raise UserError(
            f"--interface: {request.interface} is a subnet, of which only Open MPI knows; give a name, such as eth1"
        )
    # The first is the launcher's, the second that of the library by which the ranks talk over TCP.
    return ["-iface", request.interface, "-genv", "FI_TCP_IFACE", request.interface]


def _hydra_exports(exports: Mapping[str, str]) -> list[str]:
    return [word for name, value in exports.items() for word in ("-genv", name, value)]


def _host_list(hosts: tuple[Host, ...]) -> str:
    # A list on the line needs no temporary file, so the line that --dry-run prints works later and elsewhere.
    return ",".join(f"{host.name}:{host.slots}" for host in hosts)


def ranks_by_host(num_ranks: int, hosts: tuple[Host, ...]) -> list[Host]:
    """How many ranks each host gets: its slots in turn, and round again when there are more ranks than slots."""
    hosts = hosts or (Host("this machine", num_ranks),)
    rounds, left = divmod(num_ranks, sum(host.slots for host in hosts))
    filled = []
    for host in hosts:
        last = min(left, host.slots)
        left -= last
        filled.append(Host(host.name, rounds * host.slots + last))
    return filled


def _joined(gpu_ids: tuple[int, ...]) -> str:
    return ",".join(map(str, gpu_ids))
