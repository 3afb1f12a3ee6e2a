"""Messages and bytes of each rank, in each phase."""

from collections.abc import Iterator
from dataclasses import dataclass

from mpi_spp.forecast.scenario import Layout, Scenario, position_bytes
from mpi_spp.forecast.sync import Moved
from mpi_spp.forecast.work import heads_moved
from mpi_spp.parallel.dispatch_cost import bytes_of_row
from mpi_spp.parallel.mesh import Place
from mpi_spp.parallel.partition import split_evenly, within
from mpi_spp.parallel.phase import Phase

_CANDIDATE_BYTES = 8  # a logit and its token
_DISPATCH_MESSAGES = 4  # counts, rows, their experts, outputs
_SQUARES_BYTES = 8  # of a token's queries and keys, where one norm is over all heads


@dataclass(frozen=True)
class Traffic:
    """What one rank takes part in: messages (a collective is one), and bytes that it sends and receives."""

    messages: int = 0
    sent: int = 0
    received: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.messages + other.messages, self.sent + other.sent, self.received + other.received)

    def times(self, count: int) -> "Traffic":
        """So many of it."""
        return Traffic(self.messages * count, self.sent * count, self.received * count)


def prefill_traffic(scenario: Scenario, layout: Layout, rank: int) -> Traffic:
    """Of the whole prompt: hidden states between stages, what is exchanged inside them, the last state to all."""
    phase, row = layout.plan.prefill, 4 * scenario.model.hidden_size
    moved = _exchanged if phase.heads else _passed_on
    made = [sum(map(len, within(layout.made[rank], [chunk]))) for chunk in layout.chunks]
    total = sum((moved(scenario, phase, rank, tokens) for tokens in made), Traffic())
    has_last = bool(layout.made[rank]) and layout.made[rank][-1].stop == scenario.prompt_tokens
    is_last = phase.places[rank].stage + 1 == phase.places[rank].num_stages
    if phase.heads and has_last and is_last:
        total += _to_its_stage(phase, rank, made[-1], row)
    total += sum((_dispatched(scenario, layout, rank, tokens) for tokens in made), Traffic())
    if phase.num_parts > 1:
        given = _given(phase.num_parts, has_last, row) if is_last else Traffic()
        total += sum(_round_the_ring(scenario, layout, rank), given)
    return total + _from_last(phase, rank, row)


def _round_the_ring(scenario: Scenario, layout: Layout, rank: int) -> Iterator[Traffic]:
    """In each chunk a rank hands on all that is known but what the next one holds, and gets all but its own."""
    phase, parts = layout.plan.prefill, layout.plan.prefill_parts(layout.chunks)
    place = phase.places[rank]
    shares = phase.heads[place.shard : place.shard + 1] if phase.heads else layout.plan.shares
    for chunk in layout.chunks:
        own, of_next = (
            sum(map(len, within(parts[one % len(parts)], [range(chunk.stop)]))) for one in (place.part, place.part + 1)
        )
        for count in (len(share.kv_heads) for share in shares if share.query_heads):
            sent, received = ((chunk.stop - held) * count * position_bytes(scenario) for held in (of_next, own))
            yield Traffic(2 * (len(parts) - 1), sent, received).times(len(phase.spans[rank]))


def sync_traffic(layout: Layout, moved: Moved | None) -> list[Traffic]:
    """Of the whole prompt's cache, for each rank."""
    if moved is None:
        return [Traffic()] * layout.num_ranks
    busy = ((moved.sent > 0) | (moved.received > 0)).sum(axis=0)
    columns = (busy, moved.sent.sum(axis=0), moved.received.sum(axis=0))
    return [Traffic(*map(int, values)) for values in zip(*columns, strict=True)]


def decode_traffic(scenario: Scenario, layout: Layout, rank: int) -> Traffic:
    """Of one new token, its choice included."""
    phase, row = layout.plan.decode, 4 * scenario.model.hidden_size
    others = layout.num_ranks - 1
    choice = Traffic(1, _CANDIDATE_BYTES * others, _CANDIDATE_BYTES * others) if others else Traffic()
    passed_on = _passed_on(scenario, phase, rank, 1) + _from_last(phase, rank, row)
    return passed_on + _merged(scenario, layout, rank) + choice


def _merged(scenario: Scenario, layout: Layout, rank: int) -> Traffic:
    """Each rank's part of the attention to all, where positions are split."""
    phase, others = layout.plan.decode, layout.num_ranks - 1
    if phase.num_parts == 1:
        return Traffic()
    queries = [len(share.query_heads) for share in layout.plan.shares if len(share.query_heads)]
    part = 4 * sum(queries) * (scenario.model.head_dim + 1) * others
    return Traffic(len(queries), part, part).times(len(phase.spans[rank]))


def _passed_on(scenario: Scenario, phase: Phase, rank: int, tokens: int) -> Traffic:
    """Hidden states of so many tokens on their way through this rank's layers."""
    place, nbytes = phase.places[rank], 4 * scenario.model.hidden_size * tokens
    hops = _hops(place, nbytes)
    if place.num_shards == 1:
        return hops
    layers, squares = len(phase.spans[rank]), scenario.model.sums_a_layer - 2
    sums = _sum(place, nbytes).times(2) + _sum(place, _SQUARES_BYTES * tokens).times(squares)
    return hops + sums.times(layers)


def _sum(place: Place, nbytes: int) -> Traffic:
    """An all-reduce among the shards of a layer."""
    part = 2 * nbytes * (place.num_shards - 1) // place.num_shards
    return Traffic(1, part, part)


def _hops(place: Place, nbytes: int) -> Traffic:
    """From the stage before, and to the next one."""
    arriving = Traffic(1, 0, nbytes) if place.stage else Traffic()
    return arriving + (Traffic(1, nbytes, 0) if place.stage + 1 < place.num_stages else Traffic())


def _exchanged(scenario: Scenario, phase: Phase, rank: int, num_tokens: int) -> Traffic:
    """A chunk whose tokens the ranks of a stage split: each passes on its own; heads are exchanged in every layer."""
    place, head = phase.places[rank], scenario.model.head_dim * scenario.dtype.itemsize
    own = len(split_evenly(num_tokens, place.num_shards)[place.shard])
    moved = heads_moved(phase.heads).counts(place.shard, own, num_tokens)
    both = sum((Traffic(1, int(given) * head, int(taken) * head) for given, taken in moved), Traffic())
    return _hops(place, own * 4 * scenario.model.hidden_size) + both.times(len(phase.spans[rank]))


def _dispatched(scenario: Scenario, layout: Layout, rank: int, tokens: int) -> Traffic:
    """Rows of a rank's own tokens to experts of other ranks, and back: as if experts were used evenly."""
    phase, model = layout.plan.prefill, scenario.model
    if not layout.plan.dispatches or model.experts is None:
        return Traffic()
    place, layers = phase.places[rank], sum(map(model.has_experts, phase.spans[rank]))
    own = len(split_evenly(tokens, place.num_shards)[place.shard])
    nbytes = own * bytes_of_row(model.experts, model.hidden_size, scenario.dtype.itemsize, place.stage_size)
    counts = 8 * (place.stage_size - 1)
    return Traffic(_DISPATCH_MESSAGES, counts + int(nbytes), counts + int(nbytes)).times(layers)


def _to_its_stage(phase: Phase, rank: int, num_tokens: int, nbytes: int) -> Traffic:
    """The rank that has the last of a chunk's tokens gives its hidden state to the others of the last stage."""
    place = phase.places[rank]
    return _given(place.num_shards, place.shard == min(num_tokens, place.num_shards) - 1, nbytes)


def _from_last(phase: Phase, rank: int, nbytes: int) -> Traffic:
    """A broadcast from the last stage, where there are several."""
    several = phase.places[0].num_stages > 1
    return _given(len(phase.places), rank == phase.last, nbytes) if several else Traffic()


def _given(num_ranks: int, is_root: bool, nbytes: int) -> Traffic:
    """A broadcast among so many."""
    return Traffic(1, nbytes * (num_ranks - 1), 0) if is_root else Traffic(1, 0, nbytes)
