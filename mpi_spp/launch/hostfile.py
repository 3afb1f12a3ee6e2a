"""Hostfiles: read in the format of any MPI, and named as one list of hosts."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mpi_spp.errors import UserError
from mpi_spp.units import parse_bytes

_FORMATS = "one host a line, as 'node1 slots=2' (Open MPI) or 'node1:2' (MPICH, Intel MPI)"
_LINE = re.compile(
    r"(?P<name>[\w.@-]+)(?:\s*:\s*(?P<colon>\d+)|\s+slots\s*=\s*(?P<slots>\d+))?"
    r"(?:\s+max-memory\s*=\s*(?P<memory>\S+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Host:
    """A machine, how many ranks it takes, and the bytes of memory that they may use together; None: no limit."""

    name: str
    slots: int
    max_memory: int | None = None


def read_hostfile(path: str | Path) -> tuple[Host, ...]:
    """The hosts in order of first mention; the slots of repeated lines add up, and a line without a number is one slot.

    All names of this machine count as one host, since MPICH and Intel MPI would take `localhost` and its own name
    for two, and every rank must know how many others share its cores.
    """
    hosts = _merged(_hosts_of_lines(path))
    if not hosts:
        raise UserError(f"--hostfile: {path} names no host; write {_FORMATS}")
    return hosts


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Read `node1:2,node2:2`."""
    return _merged(_parse(entry.strip(), "--hosts") for entry in text.split(","))


def _merged(entries: Iterable[Host]) -> tuple[Host, ...]:
    hosts: dict[str, Host] = {}
    own_name = None
    for host in entries:
        if is_this_machine(host.name):
            own_name = own_name or host.name
            host = replace(host, name=own_name)
        before = hosts.get(host.name, Host(host.name, 0))
        hosts[host.name] = Host(host.name, before.slots + host.slots, host.max_memory or before.max_memory)
    return tuple(hosts.values())


def memory_limits(hosts: Iterable[Host]) -> str:
    """The limits of hosts as `--max-memory` reads them, under the names that their ranks know; empty without limits."""
    own = os.uname().nodename
    limited = ((own if is_this_machine(one.name) else one.name, one.max_memory) for one in hosts if one.max_memory)
    return ",".join(f"{name}={limit}" for name, limit in limited)


def is_this_machine(name: str) -> bool:
    """Whether the name is one of the usual names of the machine that asks."""
    own = os.uname().nodename
    return name in ("localhost", "127.0.0.1", own, own.split(".")[0])


def _hosts_of_lines(path: str | Path) -> Iterator[Host]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        entry = line.split("#")[0].strip()
        if entry:
            yield _parse(entry, f"--hostfile: {path}, line {number}")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--hostfile: {path} is no text; write {_FORMATS}") from None
    except OSError as error:
        raise UserError(f"--hostfile: {path} cannot be read ({error.strerror}); give a file with {_FORMATS}") from None


def _parse(entry: str, where: str) -> Host:
    match = _LINE.fullmatch(entry)
    if match is None:
        raise UserError(f"{where}: {entry!r} is not understood; write {_FORMATS}")
    slots = int(match["colon"] or match["slots"] or 1)
    if slots < 1:
        raise UserError(f"{where}: {match['name']} has {slots} slots; give it 1 or more, or remove the line")
    return Host(match["name"], slots, parse_bytes(match["memory"], where) if match["memory"] else None)
