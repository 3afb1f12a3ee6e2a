"""Which way rows and experts of different ranks come together, where all ranks of a stage have the same rows."""

from mpi_spp.plan.links import Group, Links
from mpi_spp.shares import Experts

_EXCHANGES = 4  # counts, rows, outputs, and in the end all rows to all


def dispatch_pays(rows: int, experts: Experts, hidden_size: int, itemsize: int, group: Group, links: Links) -> bool:
    """Whether it is faster that each rank sends a part of the rows to their experts than that all outputs are added up.

    The ranks of `group` have equally many experts each; rows [rows, hidden_size] of numbers of `itemsize` bytes.
    """
    return dispatch_s(rows, experts, hidden_size, itemsize, group, links) < links.sum_s(4 * hidden_size * rows, group)


def dispatch_s(rows: int, experts: Experts, hidden_size: int, itemsize: int, group: Group, links: Links) -> float:
    """Seconds of a dispatch of parts of the rows, and of the sums to all ranks."""
    others = group.ranks - 1
    met = others * (1 - (1 - 1 / group.ranks) ** experts.top_k)  # other ranks that have an expert of a row
    of_row = met * (hidden_size * (itemsize + 4) + 8 * experts.top_k) + others * hidden_size * 4
    sent = rows / group.ranks * of_row
    latency, nbytes, rate = links.inside.latency_s, sent, links.inside.bytes_per_s
    if group.hosts > 1:
        leaving = (group.ranks - group.per_host) / others
        latency, nbytes, rate = links.between.latency_s, sent * leaving * group.per_host, links.between.bytes_per_s
    return _EXCHANGES * others * latency + nbytes / rate
