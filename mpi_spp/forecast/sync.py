"""What a sync moves in each of its rounds: those of parallel/rounds.py, counted for all ranks at once and not run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from mpi_spp.forecast.routes import Array, routes_of, traffic_of
from mpi_spp.forecast.scenario import Layout, Scenario, position_bytes
from mpi_spp.kv.exchange import HostParcels, Shared
from mpi_spp.parallel import registry
from mpi_spp.parallel.layout import KVLayout, Region
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import within
from mpi_spp.parallel.phase import layout_of
from mpi_spp.parallel.rounds import ALL_LAYERS
from mpi_spp.strategies.assignment import sync_that_joins


@dataclass(frozen=True)
class Moved:
    """Of all rounds in order: when each starts, as (tick, layers done in it), and the bytes that move.

    `sent` and `received` [rounds, ranks]; `inside` [rounds, ranks]: of those received, what comes from the same host;
    `leaving` and `entering` [rounds, hosts]: what passes between hosts. `messages`: one after another in a round.
    """

    ticks: Array
    layers_done: Array
    sent: Array
    received: Array
    inside: Array
    leaving: Array
    entering: Array
    messages: int
    in_steps: bool  # each message waits for the one before it


def moved_by(scenario: Scenario, layout: Layout) -> Moved | None:
    """All rounds; None where nothing travels."""
    prefill, decode = layout.plan.prefill, layout.plan.decode
    if layout.num_ranks == 1 or prefill.regions == decode.regions:
        return None
    granularity, stages = scenario.config.sync_granularity, np.array([place.stage for place in prefill.places])
    slices = _slices(prefill.regions, granularity)
    flows: Sequence[_Flow | _SplitFlow]
    each = np.arange(layout.num_ranks)
    sources = each if prefill.num_parts > 1 else stages  # ranks of a stage may make the same positions
    if decode.num_parts > 1:
        wanted = _wanted(layout, sources, granularity)
        flows, lengths = [_SplitFlow(scenario, layout, made, sources, wanted) for made in slices], np.eye(len(wanted))
    else:
        flows = [_Flow(scenario, layout, made, sources) for made in slices]
        lengths = _lengths(layout, sources, granularity)

    def of_rounds(name: str) -> Array:
        """[ticks, slices, ...] in the order of the rounds."""
        found = np.stack([lengths @ getattr(flow, name) for flow in flows], axis=1)
        return found.reshape(-1, found.shape[-1]) * position_bytes(scenario)

    last, in_tick = len(layout.chunks) + int(stages.max()) - 1, np.arange(1.0, len(slices) + 1)
    ticks = np.arange(len(lengths)) if granularity != "prefill" else np.array([last])
    done = in_tick if granularity == "layer" else np.array([float(ALL_LAYERS)])
    return Moved(
        ticks=np.repeat(ticks, len(slices)),
        layers_done=np.tile(done, len(ticks)),
        sent=of_rounds("sent"),
        received=of_rounds("received"),
        inside=of_rounds("inside"),
        leaving=of_rounds("leaving"),
        entering=of_rounds("entering"),
        messages=layout.num_ranks - 1,
        in_steps=_in_steps(layout.strategies.sync),
    )


def _in_steps(sync: ModuleType) -> bool:
    """Whether messages of a round wait for one another: on three ranks as on more."""
    return sync.MOVES is Shared and routes_of(sync.exchange, 3).in_steps


def _lengths(layout: Layout, sources: Any, granularity: str) -> Array:
    """The positions that each source makes in each tick, or in all: [ticks, sources]. `sources`: of each rank."""
    parts = layout.plan.prefill_parts(layout.chunks)
    of_parts = [[sum(map(len, within(made, [chunk]))) for made in parts] for chunk in layout.chunks]
    return _in_ticks(layout, np.array(of_parts, dtype=float), sources, granularity)


def _wanted(layout: Layout, sources: Any, granularity: str) -> Array:
    """Of the positions that a source makes in a tick, or in all, those that a rank keeps: [ticks, sources, ranks]."""
    kept = [(*of_rank, range(0))[0] for of_rank in layout.kept]  # one stretch each, or none
    parts = layout.plan.prefill_parts(layout.chunks)
    of_parts = np.zeros((len(layout.chunks), len(parts), len(kept)))
    for number, chunk in enumerate(layout.chunks):
        pieces = [(part, piece) for part, made in enumerate(parts) for piece in within(made, [chunk])]
        owners, ranges = zip(*pieces, strict=True)
        np.add.at(of_parts[number], list(owners), _common(ranges, kept))
    return _in_ticks(layout, of_parts, sources, granularity)


def _in_ticks(layout: Layout, of_parts: Array, sources: Any, granularity: str) -> Array:
    """[ticks, sources, ...] of [chunks, parts, ...]: in tick t a source of stage s makes its part of chunk t - s."""
    first, num_chunks, places = np.unique(sources, return_index=True)[1], len(of_parts), layout.plan.prefill.places
    found = np.zeros((num_chunks + places[0].num_stages - 1, len(first), *of_parts.shape[2:]))
    for source, rank in enumerate(first):
        place = places[rank]
        found[place.stage : place.stage + num_chunks, source] = of_parts[:, place.part]
    return found.sum(axis=0, keepdims=True) if granularity == "prefill" else found


def _slices(regions: Sequence[Region], granularity: str) -> list[list[Region]]:
    """What of each rank's layers is exchanged in the rounds of a tick, one after another."""
    if granularity != "layer":
        return [list(regions)]
    deepest = max(len(region.layers) for region in regions)
    return [[replace(of, layers=of.layers[index : index + 1]) for of in regions] for index in range(deepest)]


class _SplitFlow:
    """Positions times layers times heads that travel in each tick to ranks that keep a part of the positions each."""

    def __init__(self, scenario: Scenario, layout: Layout, made: Sequence[Region], sources: Any, wanted: Array) -> None:
        """`wanted`: [ticks, sources, ranks]."""
        hosts, of_host = _hosts(scenario)
        parcels = _parcels(layout, made, np.zeros(0), hosts)
        np.fill_diagonal(parcels, 0.0)
        near = parcels * (hosts[:, None] == hosts)
        self.sent, self.received = _of_ticks(parcels, sources, wanted)
        stays, self.inside = _of_ticks(near, sources, wanted)
        self.leaving, self.entering = (self.sent - stays) @ of_host, (self.received - self.inside) @ of_host


def _of_ticks(parcels: Array, sources: Any, wanted: Array) -> tuple[Array, Array]:
    """What each rank sends and receives in each tick, [ticks, ranks]."""
    sent = np.zeros((len(wanted), len(parcels)))
    received = np.zeros_like(sent)
    for source in range(wanted.shape[1]):
        of_source = parcels[sources == source]
        sent[:, sources == source] = wanted[:, source] @ of_source.T
        received += wanted[:, source] * of_source.sum(axis=0)
    return sent, received


def _hosts(scenario: Scenario) -> tuple[Any, Array]:
    """The host of each rank by number, and [ranks, hosts]: 1 where a rank is on a host."""
    names = {host: number for number, host in enumerate(dict.fromkeys(scenario.hosts))}
    hosts = np.array([names[host] for host in scenario.hosts])
    return hosts, (hosts[:, None] == np.arange(len(names))).astype(float)


class _Flow:
    """Layers times heads that travel for a position made by each source: [sources, ranks] or [sources, hosts]."""

    def __init__(self, scenario: Scenario, layout: Layout, made: Sequence[Region], sources: Any) -> None:
        hosts, of_host = _hosts(scenario)
        of_source = (sources == np.arange(sources.max() + 1)[:, None]).astype(float)  # [sources, ranks]
        sizes = np.array([len(of.layers) * len(of.made) for of in made], dtype=float)
        if layout.strategies.sync.MOVES is Shared:
            self.sent, self.received, stays, self.inside = traffic_of(layout.strategies.sync, of_source * sizes, hosts)
            self.leaving, self.entering = (self.sent - stays) @ of_host, (self.received - self.inside) @ of_host
            return
        parcels = _parcels(layout, made, sizes, hosts)  # [from, to]
        np.fill_diagonal(parcels, 0.0)
        inside = parcels * (hosts[:, None] == hosts)
        self.sent, self.received = of_source * parcels.sum(axis=1), of_source @ parcels
        self.inside = of_source @ inside
        self.leaving = (self.sent - of_source * inside.sum(axis=1)) @ of_host
        self.entering = (self.received - self.inside) @ of_host


def _parcels(layout: Layout, made: Sequence[Region], sizes: Array, hosts: Any) -> Array:
    """What each rank gives to each other for a position, [from, to]."""
    if layout.strategies.sync.MOVES is HostParcels:
        return _one_for_each_host(sizes, hosts)
    wanted = layout.plan.decode.regions
    layers = _common([of.layers for of in made], [of.layers for of in wanted])
    return layers * _common([of.made for of in made], [of.heads for of in wanted])


def _one_for_each_host(sizes: Array, hosts: Any) -> Array:
    """The ranks of a host take turns in taking what others have for it: see kv/exchange.py."""
    parcels, senders = np.zeros((len(sizes), len(sizes))), np.arange(len(sizes))
    for host in range(hosts.max() + 1):
        there = np.flatnonzero(hosts == host)
        others = senders[hosts != host]
        parcels[others, there[others % len(there)]] = sizes[others]
    return parcels


def _common(some: Sequence[range], others: Sequence[range]) -> Array:
    """The lengths of what each two ranges have in common, [some, others]."""
    (first, last), (start, stop) = (
        np.array([[one.start, one.stop] for one in ranges], dtype=float).T for ranges in (some, others)
    )
    return np.maximum(0.0, np.minimum(last[:, None], stop) - np.maximum(first[:, None], start))


@dataclass(frozen=True)
class Joint:
    """The syncs that bring the cache of a prefill to a decode; `chosen` is what `--sync-strategy auto` takes."""

    prefill: str
    decode: str
    source: KVLayout
    target: KVLayout
    syncs: list[str]
    chosen: str


def joints(mesh: Mesh) -> list[Joint]:
    """Every prefill with every decode, on these ranks."""
    found = []
    for prefill in registry.choices("prefill"):
        for decode in registry.choices("decode"):
            modules = registry.load("prefill", prefill), registry.load("decode", decode)
            source, target = (layout_of(module.place(mesh, 0)) for module in modules)
            syncs = [name for name in registry.choices("sync") if registry.load("sync", name).joins(source, target)]
            chosen = sync_that_joins(source, target, mesh.replica_size)
            found.append(Joint(prefill, decode, source, target, syncs, chosen))
    return found
