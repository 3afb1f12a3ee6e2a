"""What a sync moves in each of its rounds: those of kv/rounds.py, counted for all ranks at once and not run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpi_spp import registry
from mpi_spp.kv.exchange import HostParcels, Shared
from mpi_spp.kv.layout import KVLayout, Region
from mpi_spp.kv.rounds import ALL_LAYERS
from mpi_spp.mesh import Mesh
from mpi_spp.phase import layout_of
from mpi_spp.plan.setting import Layout, Setting, position_bytes
from mpi_spp.strategies import sync_that_joins

Array = np.ndarray[Any, np.dtype[np.float64]]


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


def moved_by(setting: Setting, layout: Layout) -> Moved | None:
    """All rounds; None where nothing travels."""
    prefill, decode = layout.plan.prefill, layout.plan.decode
    if layout.num_ranks == 1 or prefill.regions == decode.regions:
        return None
    granularity, stages = setting.config.sync_granularity, np.array([place.stage for place in prefill.places])
    lengths = _lengths(layout.chunks, int(stages.max()) + 1, granularity)
    slices = _slices(prefill.regions, granularity)
    flows = [_Flow(setting, layout, regions, stages) for regions in slices]

    def of_rounds(name: str) -> Array:
        """[ticks, slices, ...] in the order of the rounds."""
        found = np.stack([lengths @ getattr(flow, name) for flow in flows], axis=1)
        return found.reshape(-1, found.shape[-1]) * position_bytes(setting)

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
        in_steps=getattr(layout.strategies.sync, "NEIGHBOURS_ONLY", False),
    )


def _lengths(chunks: Sequence[range], num_stages: int, granularity: str) -> Array:
    """The positions that each stage makes in each tick, or in all: [ticks, stages]."""
    lengths = np.zeros((len(chunks) + num_stages - 1, num_stages))
    for stage in range(num_stages):
        lengths[stage : stage + len(chunks), stage] = [len(chunk) for chunk in chunks]
    return lengths.sum(axis=0, keepdims=True) if granularity == "prefill" else lengths


def _slices(regions: Sequence[Region], granularity: str) -> list[list[Region]]:
    """What of each rank's layers is exchanged in the rounds of a tick, one after another."""
    if granularity != "layer":
        return [list(regions)]
    deepest = max(len(region.layers) for region in regions)
    return [[replace(of, layers=of.layers[index : index + 1]) for of in regions] for index in range(deepest)]


class _Flow:
    """Layers times heads that travel for a position made by each stage: [stages, ranks] or [stages, hosts]."""

    def __init__(self, setting: Setting, layout: Layout, made: Sequence[Region], stages: Any) -> None:
        names = {host: number for number, host in enumerate(dict.fromkeys(setting.hosts))}
        hosts = np.array([names[host] for host in setting.hosts])
        of_stage = (stages == np.arange(stages.max() + 1)[:, None]).astype(float)  # [stages, ranks]
        of_host = (hosts[:, None] == np.arange(len(names))).astype(float)  # [ranks, hosts]
        sizes = np.array([len(of.layers) * len(of.made) for of in made], dtype=float)
        if getattr(layout.strategies.sync, "NEIGHBOURS_ONLY", False):
            self._round_the_ring(of_stage * sizes, hosts, of_host)
            return
        parcels = _parcels(layout, made, sizes, hosts)  # [from, to]
        np.fill_diagonal(parcels, 0.0)
        inside = parcels * (hosts[:, None] == hosts)
        self.sent, self.received = of_stage * parcels.sum(axis=1), of_stage @ parcels
        self.inside = of_stage @ inside
        self.leaving = (self.sent - of_stage * inside.sum(axis=1)) @ of_host
        self.entering = (self.received - self.inside) @ of_host

    def _round_the_ring(self, made: Array, hosts: Any, of_host: Array) -> None:
        """Every rank hands on all but what the next one has made. `made` [stages, ranks]."""
        self.sent = made.sum(axis=1, keepdims=True) - np.roll(made, -1, axis=1)
        self.received = np.roll(self.sent, 1, axis=1)
        stays = hosts == np.roll(hosts, -1)
        self.inside = np.roll(self.sent * stays, 1, axis=1)
        self.leaving = (self.sent * ~stays) @ of_host
        self.entering = (self.received - self.inside) @ of_host


def _parcels(layout: Layout, made: Sequence[Region], sizes: Array, hosts: Any) -> Array:
    """What each rank gives to each other for a position, [from, to]."""
    moves = layout.strategies.sync.MOVES
    if moves is Shared:
        return np.repeat(sizes[:, None], len(sizes), axis=1)
    if moves is HostParcels:
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
