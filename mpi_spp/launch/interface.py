"""`--interface`: the network by which ranks of several hosts talk. Launchers take any word, and hang or say little."""

import ipaddress
from collections.abc import Mapping

from mpi_spp.errors import UserError

_LONGEST_NAME = 15  # Linux's IFNAMSIZ, less its end


def check_interface(given: str, here: Mapping[str, str] | None) -> None:
    """Raise UserError for what is no interface or subnet, or none that this host has.

    `given`: one, or several with commas between them, as Open MPI takes them. `here`: the networks of this host's
    interfaces by name; None: it is other hosts that are asked for one.
    """
    for word in given.split(","):
        network = _network(word)
        if network is None and not _is_name(word):
            raise UserError(
                f"--interface: {word!r} is neither the name of an interface nor a subnet; give eth1, or 10.0.0.0/24"
            )
        if here is not None and not _is_here(word, network, here):
            listed = ", ".join(f"{name} ({of_name})" if of_name else name for name, of_name in here.items())
            raise UserError(f"--interface: {word} is none of this host's: {listed}; give one of them")


def _network(word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The subnet that a word with a slash tells; None for any other."""
    try:
        return ipaddress.ip_network(word, strict=False) if "/" in word else None
    except ValueError:
        return None


def _is_name(word: str) -> bool:
    """As Linux has them."""
    return 0 < len(word) <= _LONGEST_NAME and word.isprintable() and not set(word) & set(" /") and word[0] != "-"


def _is_here(word: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network | None, here: Mapping[str, str]) -> bool:
    if network is None:
        return word in here
    own = [ipaddress.ip_network(of_name) for of_name in here.values() if of_name]
    return network.version != 4 or any(one.version == 4 and one.overlaps(network) for one in own)
