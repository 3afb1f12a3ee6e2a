"""Several hosts on one machine, each with its own name, network and sshd, at one switch.

They are namespaces of Linux: they share the disk, and nothing of the machine's own network, names and ssh settings is
touched. All is gone when the block is left, however it is left. There are no namespaces of processes among them: one
that waits for an orphan's last parent, outside of it, would not end.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hosts.keeper import end_all, namespace_of, processes_of
from benchmarks.hosts.machine import OWN, environment, find, last_line, run, why_not
from benchmarks.hosts.settings import BECOME_HOST, write_settings
from mpi_spp.errors import UserError
from mpi_spp.launch.placement import WHEN_SHARING_CORES, cores_here
from mpi_spp.parallel.partition import split_evenly

_SECONDS_TO_START = 10.0
_BECOME_SWITCH = "ip link add br0 type bridge && ip link set br0 up && echo ready && exec sleep infinity"
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")  # it ends when its parent does
_QUEUE = "50ms"  # what waits for a full link; more is dropped


@dataclass(frozen=True)
class Host:
    """One of them. `cores`: those of the machine that it has; `namespace`: what its processes have in common."""

    name: str
    address: str
    cores: tuple[int, ...]
    shares_cores: bool
    namespace: str
    sshd: "subprocess.Popen[bytes]" = field(repr=False)

    def line(self, *command: str) -> list[str]:
        """The line that becomes this command on this host, in the caller's directory."""
        # No rank can know that another host uses its core too: that its waiting must yield has to be told.
        yielding = [f"{name}={value}" for name, value in WHEN_SHARING_CORES.items() if self.shares_cores]
        entering = ["nsenter", f"--target={self.sshd.pid}", *OWN, *_bound(self.cores)]
        return [*entering, "env", f"--chdir={Path.cwd()}", *yielding, *command]

    def processes(self) -> list[int]:
        """All that live here but sshd, which listens."""
        return [process for process in processes_of(self.namespace) if process != self.sshd.pid]

    def power_off(self) -> None:
        """End all processes here at once, and return when they are gone."""
        _end(self.sshd)
        end_all(self.namespace)


@dataclass(frozen=True)
class Network:
    """Hosts at one switch, and a file that names them with one rank each."""

    hosts: list[Host]
    hostfile: Path
    _switch: int

    def shape(self, bits_per_second: float | None) -> None:
        """Limit every link to this rate, both ways; None: as fast as the machine can."""
        for number, host in enumerate(self.hosts, start=1):
            for process, device in ((host.sshd.pid, "eth0"), (self._switch, f"port{number}")):
                _in_network(process, "tc", "qdisc", "replace", "dev", device, "root", *_queue(bits_per_second))

    def cut_off(self, host: Host) -> None:
        """From now on nothing to or from this host arrives, and nobody is told."""
        port = f"port{self.hosts.index(host) + 1}"
        _in_network(self._switch, "bridge", "link", "set", "dev", port, "state", "0")


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Hosts node1, node2, ... that reach one another by ssh. Raises UserError where there can be none."""
    reason = why_not()
    if reason is not None:
        raise UserError(reason)
    # The stack ends the hosts before their settings are removed.
    with tempfile.TemporaryDirectory(prefix="mpi-spp-hosts-") as name, ExitStack() as stack:
        directory = Path(name)
        addresses = {f"node{number}": f"10.77.0.{number}" for number in range(1, count + 1)}
        write_settings(directory, addresses)
        keeper = stack.enter_context(_keeper(name))
        switch = _start(directory / "switch.log", "unshare", "--net", "sh", "-c", _BECOME_SWITCH)
        stack.callback(_end, switch)
        hosts = []
        for number, (host, cores) in enumerate(zip(addresses, _cores_of(count), strict=True), start=1):
            hosts.append(_start_host(directory, host, addresses[host], cores, count > len(cores_here())))
            stack.callback(hosts[-1].power_off)
            print(hosts[-1].namespace, file=keeper.stdin, flush=True)
            _plug_in(switch.pid, hosts[-1], f"port{number}")
        yield Network(hosts, directory / "hostfile", switch.pid)


def _keeper(directory: str) -> "subprocess.Popen[str]":
    """Who cleans up when this process is killed. Ctrl-C in a terminal is not for it."""
    argv = [sys.executable, str(Path(__file__).with_name("keeper.py"))]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
    print(directory, file=process.stdin, flush=True)
    return process


def _cores_of(count: int) -> list[tuple[int, ...]]:
    """The machine's cores divided among the hosts; of more hosts than cores each has one, in turn."""
    cores = cores_here()
    if count > len(cores):
        return [(cores[number % len(cores)],) for number in range(count)]
    return [tuple(cores[index] for index in part) for part in split_evenly(len(cores), count)]


def _start_host(directory: Path, name: str, address: str, cores: tuple[int, ...], shares_cores: bool) -> Host:
    log = directory / f"{name}.log"
    become = ("unshare", *OWN, "sh", "-c", BECOME_HOST, name, str(directory), str(find("sshd")))
    sshd = _start(log, *_bound(cores), *become)
    try:
        _await_sshd(sshd, log)
    except RuntimeError:
        _end(sshd)
        raise
    return Host(name, address, cores, shares_cores, namespace_of(sshd.pid), sshd)


def _start(log: Path, *command: str) -> "subprocess.Popen[bytes]":
    """Start what lives on as long as this process, and return when it has said that it is ready."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for the command that runs on a host
        )
    assert process.stdout is not None
    with process.stdout as output:
        if output.readline() != b"ready\n":
            _end(process)
            raise RuntimeError(f"no host can be started: {last_line(log.read_text())}")
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _plug_in(switch: int, host: Host, port: str) -> None:
    """A cable from the host to the switch."""
    _in_network(switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.sshd.pid))
    _in_network(switch, "ip", "link", "set", port, "master", "br0", "up")
    _in_network(host.sshd.pid, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    _in_network(host.sshd.pid, "ip", "link", "set", "eth0", "up")


def _await_sshd(sshd: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when something listens on port 22."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while not any(line.split()[1].endswith(":0016") for line in _sockets(sshd.pid)):
        if sshd.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not listen: {last_line(log.read_text())}")
        time.sleep(0.01)


def _sockets(process: int) -> list[str]:
    """The TCP sockets of a process's network, a line each; none when it has ended."""
    try:
        return Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return []


def _queue(bits_per_second: float | None) -> list[str]:
    """What tc calls such a link. The bucket holds what a millisecond lets through, and always a whole packet."""
    if bits_per_second is None:
        return ["noqueue"]
    burst = max(1 << 15, round(bits_per_second / 8 / 1000))
    return ["tbf", "rate", f"{round(bits_per_second)}bit", "burst", f"{burst}b", "latency", _QUEUE]


def _bound(cores: tuple[int, ...]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def _in_network(process: int, *command: str) -> None:
    """Run a command in the network of a process."""
    run("nsenter", f"--target={process}", "--net", *command)
