"""The way between hosts: interfaces, measured links, clocks."""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence

from mpi_spp.instruments.doctor.facts import JobFacts, Link, RankFacts, where
from mpi_spp.instruments.doctor.finding import Finding, Level
from mpi_spp.instruments.doctor.interfaces import Interface, route_to

_NAME_ONE = "name the network: launch --interface {interface}, or --interface {network} with Open MPI"
# By which users say which interface MPI takes.
_CHOSEN_BY = ("OMPI_MCA_btl_tcp_if_include", "I_MPI_HYDRA_IFACE", "FI_TCP_IFACE", "FI_SOCKETS_IFACE", "UCX_NET_DEVICES")
_SLOW_INSIDE = 1e9  # bytes a second that any memory exceeds
_HALF = 0.5
_APART_S = 0.1  # from which on the logs of two hosts mislead


def check(job: JobFacts) -> Iterator[Finding]:
    """Interfaces of each host towards the others; each measured link; the clocks."""
    if len(job.hosts) > 1:
        for leader in job.leaders:
            yield _interfaces(leader, [other for other in job.leaders if other is not leader])
        yield from _repeated_addresses(job.leaders)
    for link in job.links:
        yield _link(link, job)
    yield from _clocks(job)


def _interfaces(leader: RankFacts, others: Sequence[RankFacts]) -> Finding:
    """One network that all hosts are in, or the choice between several."""
    ways = {other.host: _ways(leader, other) for other in others}
    unreachable = [host for host, found in ways.items() if not found]
    about = where([leader])
    if unreachable:
        told = f"no route to any address of {', '.join(unreachable)}"
        return Finding("interface", Level.WARNING, told, "look at the cables, addresses and firewalls", *about)
    used = list(dict.fromkeys(interface for found in ways.values() for interface in found))
    listed = ", ".join(map(str, used))
    chosen = next((f"{name}={leader.variables[name]}" for name in _CHOSEN_BY if name in leader.variables), None)
    if chosen is not None:
        return Finding("interface", Level.OK, f"{chosen}; to the other hosts lead {listed}", "", *about)
    if any(len(found) > 1 for found in ways.values()):
        fastest = max(used, key=lambda one: one.mbit or 0)
        advice = _NAME_ONE.format(network=fastest.network, interface=fastest.name)
        told = f"several interfaces lead to other hosts, and MPI may take any or all: {listed}"
        return Finding("interface", Level.NOTE, told, advice, *about)
    return Finding("interface", Level.OK, f"to the other hosts by {listed}", "", *about)


def _ways(leader: RankFacts, other: RankFacts) -> list[Interface]:
    """The interfaces in a network of the other host's; else the one that the routes give."""
    elsewhere = [ipaddress.ip_address(one.ip) for one in other.interfaces]
    own = {one.ip for one in leader.interfaces}
    direct = [
        one
        for one in leader.interfaces
        if any(str(to) not in own and to in ipaddress.ip_network(one.network) for to in elsewhere)
    ]
    if direct:
        return direct
    routes = [route_to(str(to), leader.routes) for to in elsewhere if str(to) not in own]
    names = {route.interface for route in routes if route is not None}
    return [one for one in leader.interfaces if one.name in names]


def _repeated_addresses(leaders: Sequence[RankFacts]) -> Iterator[Finding]:
    """A bridge of containers has the same address on every host: an MPI that tries it talks to itself, and hangs."""
    count = Counter(one.ip for leader in leaders for one in leader.interfaces)
    for address in (address for address, times in count.items() if times > 1):
        having = [leader for leader in leaders if address in {one.ip for one in leader.interfaces}]
        if all(any(name in leader.variables for name in _CHOSEN_BY) for leader in having):
            continue
        bridge = next(one.name for one in having[0].interfaces if one.ip == address)
        others = [one for one in having[0].interfaces if count[one.ip] == 1]
        advice = _NAME_ONE.format(
            network=others[0].network if others else "NETWORK", interface=others[0].name if others else "NAME"
        )
        told = f"{bridge} has the address {address} on all of them: an MPI that tries it may hang"
        yield Finding("interface", Level.WARNING, told, advice, *where(having))


def _link(link: Link, job: JobFacts) -> Finding:
    """The measured figures, held against the interface's speed, or against memory."""
    first, second = job.ranks[link.first], job.ranks[link.second]
    told = f"{link.latency_s * 1e6:.3g} us, {link.bytes_per_s / 1e6:.3g} MB/s between ranks {first.rank}, {second.rank}"
    about = where((first, second))
    if first.host == second.host:
        if link.bytes_per_s < _SLOW_INSIDE and not _share_a_core(first, second):
            advice = "look at /dev/shm, cross-memory attach, and what else runs there"
            return Finding("link", Level.NOTE, f"{told}, slow for one host", advice, *about)
        return Finding("link", Level.OK, told, "", *about)
    speeds = [one.mbit for one in _ways(first, second) if one.mbit is not None]
    promised = max(speeds, default=0) * 1e6 / 8
    if link.bytes_per_s < _HALF * promised:
        told += f", less than half of the {promised / 1e6:.3g} MB/s of the interface"
        advice = "see which interface MPI takes, who else uses the link, and whether ranks share cores"
        return Finding("link", Level.WARNING, told, advice, *about)
    return Finding("link", Level.OK, told, "", *about)


def _share_a_core(first: RankFacts, second: RankFacts) -> bool:
    """Then one of them waits for the core, whatever the memory is able to do."""
    together = set(first.cores) | set(second.cores)
    return bool(set(first.cores) & set(second.cores)) and first.threads + second.threads > len(together)


def _clocks(job: JobFacts) -> Iterator[Finding]:
    apart = [one for one in job.clocks if abs(one.ahead_s) - one.uncertainty_s > _APART_S]
    for one in apart:
        told = f"the clock is {one.ahead_s:+.3g} s from that of {job.ranks[0].host}"
        advice = "let chrony or another NTP client run on all hosts: times of logs and traces do not fit"
        yield Finding("clock", Level.WARNING, told, advice, *where([job.ranks[one.rank]]))
    if job.clocks and not apart:
        worst = max(job.clocks, key=lambda one: abs(one.ahead_s))
        told = f"clocks are within {abs(worst.ahead_s) * 1e3:.3g} ms (known to {worst.uncertainty_s * 1e3:.2g} ms)"
        yield Finding("clock", Level.OK, told, "", *where(job.leaders))
