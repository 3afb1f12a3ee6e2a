"""Amounts of memory as people write and read them."""

import re

from mpi_spp.errors import UserError

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


def show_bytes(count: float) -> str:
    """`1.25 GiB`, `35.0 MiB`, `512 B`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _factor(unit: str) -> int | None:
    return next(
        (factor for name, factor in _FACTORS.items() if name.lower() == unit.lower()), 1 if unit in "bB" else None
    )
