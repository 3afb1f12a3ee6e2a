"""How a layer is cut into shares that can be computed apart and added up: pure functions."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mpi_spp.parallel.partition import split_as, split_evenly

_MLP_UNIT = 32  # columns that the kernels keep together; fewer where there are not enough of them for all


@dataclass(frozen=True)
class Experts:
    """The experts of a layer (Shazeer et al., 2017): how many there are, and those that a token takes.

    `size`: columns of each; `shared_size`: of the one that all tokens take besides, 0 where there is none.
    `normalized`: whether the weights of a token's experts are made to add up to 1.
    """

    count: int
    top_k: int
    size: int
    shared_size: int = 0
    normalized: bool = False

    @property
    def columns(self) -> int:
        """Of all experts."""
        return self.count * self.size + self.shared_size

    @property
    def active_columns(self) -> int:
        """That one token goes through."""
        return self.top_k * self.size + self.shared_size


class Shape(Protocol):
    """What of a model's configuration decides."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def experts(self) -> Experts | None: ...


@dataclass(frozen=True)
class Share:
    """A part of every layer: query heads, the key/value heads that they look at, and columns of the MLP.

    Where a layer has experts instead: some of them, columns of each of those, and columns of the shared one.
    All query heads of a share have equally many neighbours on each of its key/value heads. Any part may be empty.
    """

    query_heads: range
    kv_heads: range
    mlp: range
    experts: range = range(0)
    expert_columns: range = range(0)
    shared: range = range(0)

    def without_experts(self) -> "Share":
        """All but what only some tokens meet."""
        return replace(self, experts=range(0), expert_columns=range(0))


def split_layer(shape: Shape, count: int, expert_groups: int = 1) -> list[Share]:
    """Shares of about the same weight, for any count, which is a multiple of `expert_groups`.

    Key/value heads stay whole, each with its query heads, while there are enough of them; beyond that several shares
    keep the same one and divide its query heads, of which some shares may get none. The MLP makes up for it.
    Experts are dealt out to so many groups of consecutive shares; those of a group divide the columns of its experts.
    """
    heads = _heads_for_all(shape, count) if count > shape.num_key_value_heads else _whole_groups(shape, count)
    width = shape.hidden_size * shape.head_dim
    loads = [width * 2 * (len(queries) + len(keys)) for queries, keys in heads]
    columns = _split_columns(shape.intermediate_size, loads, 3 * shape.hidden_size)
    shares = [Share(queries, keys, mlp) for (queries, keys), mlp in zip(heads, columns, strict=True)]
    return shares if shape.experts is None else _with_experts(shares, shape, shape.experts, loads, expert_groups)


def _with_experts(shares: list[Share], shape: Shape, experts: Experts, loads: list[int], groups: int) -> list[Share]:
    """An expert weighs as much as it is used: by top_k of all tokens and experts."""
    width, size, parts = 3 * shape.hidden_size, len(shares) // groups, []
    shared = _split_columns(experts.shared_size, loads, width)
    busy = [(load + width * len(of_shared)) * experts.count for load, of_shared in zip(loads, shared, strict=True)]
    for group, held in enumerate(split_evenly(experts.count, groups)):
        columns = experts.size if len(held) else 0
        weight = width * experts.top_k * len(held)
        parts += [(held, part) for part in _split_columns(columns, busy[group * size : (group + 1) * size], weight)]
    return [
        replace(share, experts=held, expert_columns=part, shared=of_shared)
        for share, (held, part), of_shared in zip(shares, parts, shared, strict=True)
    ]


def _split_columns(count: int, loads: list[int], weight: int) -> list[range]:
    unit = _MLP_UNIT if count >= 2 * len(loads) * _MLP_UNIT else 1
    return split_balanced(count, unit, loads, weight)


def kv_heads_of(shares: Sequence[Share]) -> range:
    """The key/value heads of consecutive shares, as one range."""
    held = [share.kv_heads for share in shares if len(share.kv_heads)]
    return range(held[0].start, held[-1].stop) if held else range(0)


def heads_among(wanted: range, ranges: Sequence[range]) -> list[tuple[int, range]]:
    """Where these heads are in ranges that follow one another: (which range, places in it), each head once, in order.

    A head that several ranges have is taken from the first one.
    """
    found, head = [], wanted.start
    for index, heads in enumerate(ranges):
        if head < wanted.stop and head in heads:
            stop = min(wanted.stop, heads.stop)
            found.append((index, range(head - heads.start, stop - heads.start)))
            head = stop
    return found


def split_balanced(count: int, unit: int, loads: list[int], weight: int) -> list[range]:
    """Spread `count` items of this weight over parts that bear loads already, in units, so that the sums come close.

    The last unit may be smaller. Of equal parts the first one gets more.
    """
    sizes = [0] * len(loads)
    queue = [(load, part) for part, load in enumerate(loads)]
    heapq.heapify(queue)
    for start in range(0, count, unit):
        size = min(unit, count - start)
        load, part = queue[0]
        sizes[part] += size
        heapq.heapreplace(queue, (load + size * weight, part))
    return split_as(_ragged_last(sizes, unit))


def _ragged_last(sizes: list[int], unit: int) -> list[int]:
    """Put what is no whole unit into the last part that has any, so that all others begin at a whole one."""
    ragged = sum(size % unit for size in sizes)
    whole = [size - size % unit for size in sizes]
    if ragged:
        last = max((part for part, size in enumerate(sizes) if size), default=0)
        whole[last] += ragged
    return whole


def _whole_groups(shape: Shape, count: int) -> list[tuple[range, range]]:
    size = shape.num_attention_heads // shape.num_key_value_heads
    return [
        (range(keys.start * size, keys.stop * size), keys) for keys in split_evenly(shape.num_key_value_heads, count)
    ]


def _heads_for_all(shape: Shape, count: int) -> list[tuple[range, range]]:
    size, heads = shape.num_attention_heads // shape.num_key_value_heads, []
    for key, owners in enumerate(split_evenly(count, shape.num_key_value_heads)):
        for queries in split_evenly(size, len(owners)):
            first, some = key * size, len(queries) > 0
            heads.append((range(first + queries.start, first + queries.stop), range(key, key + some)))
    return heads
