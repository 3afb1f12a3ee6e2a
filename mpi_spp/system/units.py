"""Amounts as people write and read them."""

import re
from collections.abc import Iterable, Sequence

from mpi_spp.errors import UserError

# Bytes of each host, or of hosts by name; None: no limit.
MemoryLimit = int | tuple[tuple[str, int], ...] | None

_FACTORS = {"": 1} | {
    letter + kind: base**power
    for power, letter in enumerate("KMGT", start=1)
    for kind, base in (("iB", 1024), ("B", 1000), ("", 1024))
}


def parse_bytes(text: str, option: str) -> int:
    """Read `8GiB`, `500MB`, `2G` (GiB) or a number of bytes. Raises UserError that names the option."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?(?:i?B)?)", text.strip(), re.ASCII | re.IGNORECASE)
    factor = None if found is None else _factor(found[2])
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise UserError(f"{option}: {text!r} is no amount of memory; give bytes or, for example, 8GiB")
    return int(float(found[1]) * factor)


def parse_limit(text: str, option: str) -> MemoryLimit:
    """Read `8GiB`, or `node1=8GiB,node2=4GiB`. Raises UserError that names the option."""
    if "=" not in text:
        return parse_bytes(text, option)
    pairs = [entry.partition("=") for entry in text.split(",")]
    names = [name.strip() for name, *_ in pairs]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"{option}: {text!r} does not name each host once; write node1=8GiB,node2=4GiB")
    return tuple((name, parse_bytes(amount, option)) for name, (_, _, amount) in zip(names, pairs, strict=True))


def limits_by_host(limit: MemoryLimit, hosts: Iterable[str], option: str) -> dict[str, int]:
    """The bytes of those of the hosts that have a limit. Names may leave out the domain.

    Raises UserError where a limit is for a host that is not there.
    """
    there = list(dict.fromkeys(hosts))
    if limit is None or isinstance(limit, int):
        return {} if limit is None else dict.fromkeys(there, limit)
    found: dict[str, int] = {}
    for name, count in limit:
        alike = [host for host in there if name == host or name.split(".")[0] == host.split(".")[0]]
        if not alike:
            raise UserError(f"{option}: {name} is no host of this run; those are {', '.join(there)}")
        found |= dict.fromkeys(alike, count)
    return found


def show_bytes(count: float) -> str:
    """`1.25 GiB`, `35.0 MiB`, `512 B`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def counted(number: int, noun: str) -> str:
    """`1 rank`, `3 ranks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _factor(unit: str) -> int | None:
    return next(
        (factor for name, factor in _FACTORS.items() if name.lower() == unit.lower()), 1 if unit in "bB" else None
    )


def memory_warnings(ranks: Sequence[tuple[str, float, int]]) -> list[str]:
    """A line for each host with too little memory. Of every rank: host, bytes of weights, bytes free; 0: unknown."""
    lines = []
    for host in dict.fromkeys(host for host, *_ in ranks):
        needs, frees = zip(*(numbers for name, *numbers in ranks if name == host), strict=True)
        need, free = sum(needs), min(frees)
        if need > free > 0:
            told = f"the weights of all ranks on {host} take {show_bytes(need)}, and {show_bytes(free)} are free"
            advice = "take more hosts, a tensor or pipeline decode, or --quantize"
            lines.append(f"{told}: they may be killed (signal 9); {advice}")
    return lines
