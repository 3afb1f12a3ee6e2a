"""What a sync moves, by rank: the rounds of kv/rounds.py, counted and not run."""

from collections.abc import Sequence
from dataclasses import dataclass

from mpi_spp import registry
from mpi_spp.kv.exchange import HostParcels, Shared, takes_for_host
from mpi_spp.kv.layout import KVLayout
from mpi_spp.kv.rounds import Round, plan_rounds
from mpi_spp.mesh import Mesh
from mpi_spp.phase import layout_of
from mpi_spp.plan.setting import Layout, Setting, cache_of
from mpi_spp.strategies import sync_that_joins


def rounds_of(setting: Setting, layout: Layout) -> list[Round]:
    """All rounds; none where nothing travels."""
    prefill, decode = layout.plan.prefill, layout.plan.decode
    if layout.num_ranks == 1 or prefill.regions == decode.regions:
        return []
    stages = [place.stage for place in prefill.places]
    return plan_rounds(setting.config.sync_granularity, prefill.regions, stages, layout.chunks)


def round_bytes(setting: Setting, layout: Layout, rank: int) -> list[tuple[int, int]]:
    """Bytes sent and received by a rank in each round, a part times the ranks that must get it."""
    row, moves = cache_of(setting, layout.plan.decode, rank, 1).position_bytes, layout.strategies.sync.MOVES
    if moves is HostParcels:
        counts = [_between_hosts(one, setting.hosts, rank) for one in rounds_of(setting, layout)]
    else:
        count = _shared if moves is Shared else _parcels
        counts = [count(one, layout, rank) for one in rounds_of(setting, layout)]
    return [(row * sent, row * got) for sent, got in counts]


def _shared(round_: Round, layout: Layout, rank: int) -> tuple[int, int]:
    """Every block goes to all."""
    mine = len(round_.blocks[rank])
    return mine * (layout.num_ranks - 1), sum(map(len, round_.blocks)) - mine


def _between_hosts(round_: Round, hosts: Sequence[str], rank: int) -> tuple[int, int]:
    """Every block goes to each other host once."""
    ranks = range(len(hosts))
    sent = len(round_.blocks[rank]) * sum(takes_for_host(hosts, rank, other) for other in ranks)
    return sent, sum(len(round_.blocks[other]) for other in ranks if takes_for_host(hosts, other, rank))


def _parcels(round_: Round, layout: Layout, rank: int) -> tuple[int, int]:
    """Every rank gets what lies in its region."""
    regions = layout.plan.decode.regions
    others = [other for other in range(layout.num_ranks) if other != rank]
    sent = sum(len(round_.blocks[rank].within(regions[other])) for other in others)
    return sent, sum(len(round_.blocks[other].within(regions[rank])) for other in others)


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
