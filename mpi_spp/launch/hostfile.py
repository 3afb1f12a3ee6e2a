"""Hostfiles: read in the format of any MPI, and named as one list of hosts."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mpi_spp.errors import UserError
from mpi_spp.system.files import MOST_CONFIG_BYTES, read_text
from mpi_spp.system.units import parse_bytes

_FORMATS = "one host a line, as 'node1 slots=2 max_slots=4' (Open MPI) or 'node1:2' (MPICH, Intel MPI)"
_LINE = re.compile(
    r"(?P<name>[\w.@][\w.@-]*)(?:\s*:\s*(?P<colon>\d{1,9}))?(?P<facts>(?:\s+[\w-]+\s*=\s*\S+)*)", re.ASCII
)
_FACT = re.compile(r"([\w-]+)\s*=\s*(\S+)", re.ASCII)
MOST_RANKS = 1 << 16  # of a job, far more than any machine starts


@dataclass(frozen=True)
class Host:
    """A machine, how many ranks it takes, and the bytes of memory that they may use together; None: no limit.

    `max_slots`: how many it takes at most when there are more ranks than slots; None: no limit.
    """

    name: str
    slots: int
    max_memory: int | None = None
    max_slots: int | None = None


def read_hostfile(path: str | Path) -> tuple[Host, ...]:
    """The hosts in order of first mention; the slots of repeated lines add up, and a line without a number is one slot.

    All names of this machine count as one host, since MPICH and Intel MPI would take `localhost` and its own name
    for two, and every rank must know how many others share its cores.
    """
    hosts = _merged(_hosts_of_lines(path), f"--hostfile: {path}")
    if not hosts:
        raise UserError(f"--hostfile: {path} names no host; write {_FORMATS}")
    return hosts


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Read `node1:2,node2:2`."""
    return _merged((_parse(entry.strip(), "--hosts") for entry in text.split(",")), "--hosts")


def _merged(entries: Iterable[Host], source: str) -> tuple[Host, ...]:
    hosts: dict[str, Host] = {}
    own_names, own_name, ranks = names_of_this_machine(), None, 0
    for host in entries:
        ranks += host.slots
        if ranks > MOST_RANKS:
            raise UserError(f"{source}: more than {MOST_RANKS} slots in all; name the hosts and slots of one run")
        if host.name in own_names:
            own_name = own_name or host.name
            host = replace(host, name=own_name)
        before = hosts.get(host.name, Host(host.name, 0))
        most = None if host.max_slots is None else host.max_slots + (before.max_slots or 0)
        memory = host.max_memory or before.max_memory
        hosts[host.name] = Host(host.name, before.slots + host.slots, memory, most or before.max_slots)
    return tuple(hosts.values())


def memory_limits(hosts: Iterable[Host]) -> str:
    """The limits of hosts as `--max-memory` reads them, under the names that their ranks know; empty without limits."""
    own = os.uname().nodename
    limited = ((own if is_this_machine(one.name) else one.name, one.max_memory) for one in hosts if one.max_memory)
    return ",".join(f"{name}={limit}" for name, limit in limited)


def is_this_machine(name: str) -> bool:
    """Whether the name is one of the usual names of the machine that asks."""
    return name in names_of_this_machine()


def names_of_this_machine() -> tuple[str, ...]:
    """The usual ones."""
    own = os.uname().nodename
    return "localhost", "127.0.0.1", own, own.split(".")[0]


def _hosts_of_lines(path: str | Path) -> Iterator[Host]:
    source = f"--hostfile: {path}"
    text = read_text(source, path, MOST_CONFIG_BYTES, f"; give a file with {_FORMATS}")
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.split("#")[0].strip()
        if entry:
            yield _parse(entry, f"{source}, line {number}")


def _parse(entry: str, where: str) -> Host:
    match = _LINE.fullmatch(entry)
    facts = [] if match is None else [(name.replace("_", "-"), value) for name, value in _FACT.findall(match["facts"])]
    facts += [] if match is None or match["colon"] is None else [("slots", match["colon"])]
    known = dict(facts)
    if match is None or len(known) < len(facts) or not known.keys() <= {"slots", "max-slots", "max-memory"}:
        raise UserError(f"{where}: {entry!r} is not understood; write {_FORMATS}")
    most = _slots(match["name"], known.get("max-slots"), entry, where)
    slots = _slots(match["name"], known.get("slots"), entry, where) or most or 1
    if most is not None and most < slots:
        raise UserError(
            f"{where}: {match['name']} has max_slots {most} and slots {slots}; give it no more slots than that"
        )
    memory = known.get("max-memory")
    return Host(match["name"], slots, None if memory is None else parse_bytes(memory, where), most)


def _slots(name: str, text: str | None, entry: str, where: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise UserError(f"{where}: {entry!r} is not understood; write {_FORMATS}")
    if int(text) < 1:
        raise UserError(f"{where}: {name} has {int(text)} slots; give it 1 or more, or remove the line")
    return int(text)
