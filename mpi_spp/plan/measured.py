"""Measured speeds: taken on the ranks of a job, remembered in the cache folder, and looked up where no job runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mpi_spp.comm.link import measure_link
from mpi_spp.costs import Measured
from mpi_spp.costs import remembered as remembered_cost
from mpi_spp.kernels.choice import time_each
from mpi_spp.kernels.memory import cpu_name, recall, remember
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import BITS, QuantizedWeight, quantize
from mpi_spp.plan.speeds import ASSUMED_WEIGHT_BYTES, Link, Speeds, assumed, assumed_cost

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import World

_ROOM = 96 << 20  # bytes of weights to go through: a cache of the CPU should not hold them
_LARGEST = 4 << 20  # numbers in one matrix: larger ones are read no faster


@dataclass(frozen=True)
class Products:
    """The products of a run: what was measured, with which back end, and quantised how."""

    what: Measured
    backend: Plain
    scheme: str | None
    group: int

    @property
    def weight_key(self) -> str:
        """What the speed of one row depends on, besides the ranks of a host."""
        what = self.what
        shape = f"{what.config.hidden_size} to {what.config.intermediate_size}"
        return f"{cpu_name()}, torch {torch.__version__}, {what.threads} threads, {what.dtype}, {what.weights}, {shape}"


def weight_rates(products: Products, world: "World", directory: Path) -> tuple[list[float], str]:
    """Bytes of weights that each rank of the job reads in a second in products of one row, and their origin.

    Collective. The ranks of a host measure at the same time, since they share its memory; the slowest of those that
    are alike counts for all of them.
    """
    memory, key = directory / "decode.json", _weight_key(products, world.local_size)
    known = world.once_a_host(lambda: recall(memory))
    kept = _number(known.get(key))
    mine = kept or measure_weight_rate(products)
    ranks = world.gather((world.host, key, mine, world.crowding(products.what.threads), kept is None))
    agreed = {(host, key): min(rate for h, k, rate, *_ in ranks if (h, k) == (host, key)) for host, key, *_ in ranks}
    if world.local_rank == 0 and kept is None:
        remember(memory, known | {key: agreed[world.host, key]})
    origin = "measured" if any(new for *_, new in ranks) else "remembered"
    return [agreed[host, key] / crowding for host, key, _, crowding, _ in ranks], origin


def measure_weight_rate(products: Products) -> float:
    """Bytes of weights read in a second, here and now."""
    config, dtype = products.what.config, products.what.dtype
    rows = max(64, min(2 * config.intermediate_size, _LARGEST // config.hidden_size))
    weight: Weight = torch.randn(rows, config.hidden_size).to(dtype)
    if products.scheme is not None:
        weight = quantize(torch.randn(rows, config.hidden_size), BITS[products.scheme], products.group)
    first = products.backend.linear(weight, None)
    copies = max(1, min(100, _ROOM // first.nbytes))
    linears = [first, *(products.backend.linear(_copy(weight), None) for _ in range(copies - 1))]
    x = torch.randn(1, config.hidden_size).to(dtype)
    first(x)
    return first.nbytes / time_each(linears, x)


def link_between(comm: "Communicator", world: "World", hidden_size: int, directory: Path) -> tuple[Link, str]:
    """The link of these ranks, the same on all, and its origin. Collective.

    It is measured every time, in a tenth of a second: who else is on the way changes. What is kept is for plans.
    """
    if comm.size == 1:
        return assumed_inside(), "not needed"
    memory, hosts = directory / "links.json", world.gather(world.host)
    values = world.gather(measure_link(comm, hidden_size))[0]
    if world.rank == 0:
        key = f"{link_key(hosts[: comm.size], hidden_size)}, {world.library}"
        remember(memory, recall(memory) | {key: list(values)})
    return Link(*values), "measured"


def link_key(hosts: Sequence[str], hidden_size: int) -> str:
    """What a link's figures depend on, besides the MPI library."""
    return f"{' '.join(f'{host}:{count}' for host, count in Counter(hosts).items())}, rows of {hidden_size}"


def remembered_speeds(products: Products, hosts: Sequence[str], cores: int, directory: Path) -> Speeds:
    """What is known without a job: of ranks on this machine and hosts like it; assumed where nothing is remembered.

    `cores`: of each host; ranks that outnumber them are slower by as much.
    """
    what, counts = products.what, Counter(hosts)
    crowding = [max(1.0, counts[host] * what.threads / cores) for host in hosts]
    cost, rates = remembered_cost(what, directory), recall(directory / "decode.json")
    found = [_number(rates.get(_weight_key(products, counts[host]))) for host in hosts]
    link = next(
        (link for key, value in recall(directory / "links.json").items()
         if key.startswith(link_key(hosts, what.config.hidden_size) + ",") and (link := _link(value))), None,
    )  # fmt: skip
    origins = {"layers": cost, "weights": all(found), "link": link}
    return Speeds(
        [(cost or assumed_cost(what.config, what.threads)).times(factor) for factor in crowding],
        [(rate or ASSUMED_WEIGHT_BYTES) / factor for rate, factor in zip(found, crowding, strict=True)],
        link or assumed(what.config, hosts).link,
        {name: "remembered" if value else "assumed" for name, value in origins.items()},
    )


def assumed_inside() -> Link:
    """For one rank, which sends nothing."""
    return Link(0.0, float("1e12"))


def _weight_key(products: Products, ranks_of_host: int) -> str:
    return f"{products.weight_key}, {ranks_of_host} ranks"


def _copy(weight: Weight) -> Weight:
    if isinstance(weight, QuantizedWeight):
        return QuantizedWeight(weight.data.clone(), weight.out_features, weight.in_features, weight.bits, weight.group)
    return weight.clone()


def _number(kept: Any) -> float | None:
    """A speed from a file, which anyone may have edited."""
    return float(kept) if isinstance(kept, int | float) and 1e3 < kept < 1e15 else None


def _link(kept: Any) -> Link | None:
    try:
        latency, rate, row = map(float, kept)
    except (TypeError, ValueError):
        return None
    return Link(latency, rate, row) if 0 <= latency < 10 and rate > 0 and 0 <= row < 10 else None
