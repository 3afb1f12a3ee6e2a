"""What it costs that rows go to ranks that have their experts, when experts are used evenly."""

from mpi_spp.parallel.links import Group, Links
from mpi_spp.parallel.shares import Experts

_EXCHANGES = 3  # counts; rows with their experts; outputs


def dispatch_pays(rows: int, experts: Experts, hidden_size: int, itemsize: int, group: Group, links: Links) -> bool:
    """Whether rows that all ranks have should go to their experts, from each rank a part; else outputs are added up.

    The ranks of `group` have equally many experts each; rows [rows, hidden_size] of numbers of `itemsize` bytes.
    """
    dispatch = dispatch_s(rows / group.ranks, experts, hidden_size, itemsize, group, links)
    to_all = _to_others_s(rows / group.ranks * (group.ranks - 1) * hidden_size * 4, 1, group, links)
    return dispatch + to_all < links.sum_s(4 * hidden_size * rows, group)


def dispatch_s(rows: float, experts: Experts, hidden_size: int, itemsize: int, group: Group, links: Links) -> float:
    """Seconds of a dispatch of so many rows of each rank."""
    nbytes = rows * bytes_of_row(experts, hidden_size, itemsize, group.ranks)
    return _to_others_s(nbytes, _EXCHANGES, group, links)


def bytes_of_row(experts: Experts, hidden_size: int, itemsize: int, num_ranks: int) -> float:
    """Of one row on its way to other ranks and back, its experts and their weights included."""
    return others_met(experts, num_ranks) * (hidden_size * (itemsize + 4) + 8 * experts.top_k)


def others_met(experts: Experts, num_ranks: int) -> float:
    """The ranks besides its own that have one of a row's experts."""
    return float((num_ranks - 1) * (1 - (1 - 1 / num_ranks) ** experts.top_k))


def _to_others_s(nbytes: float, exchanges: int, group: Group, links: Links) -> float:
    """So many bytes of each rank in all-to-alls, of which those to other hosts take longest where there are any."""
    others = group.ranks - 1
    latency, rate = links.inside.latency_s, links.inside.bytes_per_s
    if group.hosts > 1:
        latency, rate = links.between.latency_s, links.between.bytes_per_s
        nbytes *= (group.ranks - group.per_host) / others * group.per_host
    return exchanges * others * latency + nbytes / rate
