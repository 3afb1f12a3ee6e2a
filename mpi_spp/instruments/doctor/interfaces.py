"""The network interfaces of this host, and which of them leads to another host."""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mpi_spp.system.limits import read

_GET_ADDRESS, _GET_NETMASK = 0x8915, 0x891B  # SIOCGIFADDR, SIOCGIFNETMASK: see man 7 netdevice
_UP = 0x1


@dataclass(frozen=True)
class Interface:
    """One that is up and has an address of version 4, such as "10.0.0.1/24". `mbit`: a second; None: not told."""

    name: str
    address: str
    mbit: int | None = None

    @property
    def network(self) -> str:
        """Such as "10.0.0.0/24"."""
        return str(ipaddress.ip_interface(self.address).network)

    @property
    def ip(self) -> str:
        """The address without its network."""
        return self.address.split("/")[0]

    def __str__(self) -> str:
        return f"{self.name} ({'speed not told' if self.mbit is None else f'{self.mbit} Mbit/s'})"


@dataclass(frozen=True)
class Route:
    """Packets for a network leave by this interface."""

    interface: str
    network: str
    metric: int = 0


def interfaces_here() -> tuple[Interface, ...]:
    """All but the loopback."""
    found = []
    for _, name in socket.if_nameindex():
        flags = read(f"/sys/class/net/{name}/flags")
        if name == "lo" or not flags or not int(flags, 16) & _UP:
            continue
        with contextlib.suppress(OSError):  # it has no address
            address = f"{_ask(name, _GET_ADDRESS)}/{_ask(name, _GET_NETMASK)}"
            found.append(Interface(name, str(ipaddress.ip_interface(address)), _speed(name)))
    return tuple(found)


def networks_here() -> dict[str, str]:
    """The networks of all interfaces by name, of the loopback and those that are down, too; "" where none is told."""
    try:
        names = {name: "" for _, name in socket.if_nameindex()}
    except OSError:  # in a sandbox
        return {}
    loopback = {"lo": "127.0.0.0/8"} if "lo" in names else {}
    return names | loopback | {one.name: one.network for one in interfaces_here()}


def routes_here() -> tuple[Route, ...]:
    """Of the kernel's main table."""
    return parse_routes(read("/proc/net/route"))


def parse_routes(table: str) -> tuple[Route, ...]:
    """Read the text of /proc/net/route: addresses are numbers in the byte order of the machine."""
    rows = (line.split() for line in table.splitlines()[1:])
    return tuple(
        Route(row[0], f"{_dotted(row[1])}/{int(row[7], 16).bit_count()}", int(row[6]))
        for row in rows
        if int(row[3], 16) & _UP
    )


def route_to(address: str, routes: Sequence[Route]) -> Route | None:
    """The route that the kernel takes: the narrowest network that holds the address, then the least metric."""
    to = ipaddress.ip_address(address)
    fitting = [route for route in routes if to in ipaddress.ip_network(route.network)]
    return min(fitting, key=lambda one: (-ipaddress.ip_network(one.network).prefixlen, one.metric), default=None)


def _ask(name: str, what: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, what, struct.pack("256s", os.fsencode(name)[:15]))
    return socket.inet_ntoa(answer[20:24])


def _speed(name: str) -> int | None:
    told = read(f"/sys/class/net/{name}/speed")
    return int(told) if told.isdigit() else None  # -1 and nothing: it does not know


def _dotted(number: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(number, 16)))
