"""What a layer costs on each rank: measured on the loaded weights, and remembered in a file."""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.config import RunConfig
from mpi_spp.kernels.memory import measured_on, recall, remember
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Stage
from mpi_spp.parallel.schedule import Cost

if TYPE_CHECKING:
    from mpi_spp.comm.world import World

_LENGTHS = (16, 32, 64, 128, 256, 512)
_PREFIXES = (0, 2048)
_POINTS = tuple(itertools.product(_LENGTHS, _PREFIXES))
_FEWEST_ROUNDS = 3  # the first one also warms up
_NEXT_TO_NOTHING = 1.03
_DISTURBED = 0.9  # where less than this part of a time is explained, another program ran
_SECONDS = 0.5  # unless the fewest rounds take longer
_PRODUCT = (64, 256)  # rows and weights of a product that is compared between ranks: it stays in a core's own cache
_SPELLS, _SPELL_SECONDS = 11, 0.03
_FAR_BEHIND = 1.5

Times = dict[tuple[int, int], float]  # seconds for (tokens, prefix)


@dataclass(frozen=True)
class Measured:
    """What a cost depends on. `weights` tells apart what the others do not: back end, quantisation."""

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    weights: str
    threads: int


def layer_costs(what: Measured, some_layers: Callable[[], Stage], world: "World", directory: Path) -> list[Cost]:
    """The cost of one layer on every rank, the same list on all. Collective.

    Ranks of one host that are alike take the figures of the first of them, so that noise does not make them different.
    What those figures cannot know makes a rank slower: that it has a part of a core only, or that it comes out far
    behind its like when all compute side by side. `directory` keeps the figures; `some_layers` of the model are made
    where there are none.
    """
    memory, key = directory / "costs.json", _key(what)
    known = world.once_a_host(lambda: recall(memory))
    mine = _read(known.get(key)) or measure(some_layers())
    ranks = world.gather((world.host, key, mine, world.crowding(what.threads)))
    agreed = {(host, key): cost for host, key, cost, _ in reversed(ranks)}
    ours = {key: list(astuple(cost)) for (host, key), cost in agreed.items() if host == world.host}
    if world.local_rank == 0 and not ours.items() <= known.items():
        remember(memory, known | ours)
    crowdings, kinds = [crowding for _, _, _, crowding in ranks], [(host, key) for host, key, _, _ in ranks]
    if max(crowdings) == 1 and len(set(kinds)) < len(kinds):  # who shares a core comes out behind by chance
        crowdings = slowdowns(world.gather(speed()), kinds)
    return [agreed[host, key].times(factor) for (host, key, _, _), factor in zip(ranks, crowdings, strict=True)]


def speed() -> float:
    """Products a second of this rank at this moment, as all ranks compute: the median of a few short spells."""
    x, weight = torch.randn(_PRODUCT), torch.randn(_PRODUCT[1], _PRODUCT[1])
    counts = []
    for _ in range(_SPELLS):
        start, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < _SPELL_SECONDS:
            torch.mm(x, weight)
            count += 1
        counts.append(count / spent)
    return statistics.median(counts)


def slowdowns(speeds: Sequence[float], kinds: Sequence[object]) -> list[float]:
    """How many times slower each rank is than the fastest of its kind; 1 where that may be noise."""
    fastest = {kind: max(speed for speed, other in zip(speeds, kinds, strict=True) if other == kind) for kind in kinds}
    factors = [fastest[kind] / speed for speed, kind in zip(speeds, kinds, strict=True)]
    return [factor if factor > _FAR_BEHIND else 1.0 for factor in factors]


def weights_name(kernels: str, config: RunConfig) -> str:
    """What `Measured.weights` says of a back end and quantised weights."""
    activations = "" if config.activations == "exact" else f", {config.activations} activations"
    return f"{kernels} {config.quantize} by {config.quantize_group_size}{activations}"


def remembered(what: Measured, directory: Path) -> Cost | None:
    """What was measured on a machine like this one; None: nothing yet."""
    return _read(recall(directory / "costs.json").get(_key(what)))


def measure(stage: Stage) -> Cost:
    """The cost of one layer here, the mean where some of the layers look at a window only, or have experts."""
    kinds, held = list(stage.config.layers_alike().values()), stage.weights.layers
    times = [_least_times(stage, [number for number in held if number in kind]) for kind in kinds]
    shares = [len(kind) / stage.config.num_hidden_layers for kind in kinds]
    return fit({point: sum(map(float.__mul__, shares, [of[point] for of in times])) for point in _POINTS})


def _least_times(stage: Stage, layers: list[int]) -> Times:
    """The least seconds of one of these layers, over rounds through all points: noise only adds.

    The layers take turns: one that has just run would find its weights in the CPU's cache. Each is a call of its own:
    what a call costs stands for the exchange that goes on between the layers of a prefill.
    """
    least, turns = dict.fromkeys(_POINTS, float("inf")), itertools.cycle(layers)
    scratch = stage.new_cache(range(1), max(_LENGTHS) + max(_PREFIXES))
    scratch.keys.zero_()
    scratch.values.zero_()
    stop = time.perf_counter() + _SECONDS
    for number in itertools.count():
        if number >= _FEWEST_ROUNDS and time.perf_counter() > stop:
            break
        for point in _POINTS:
            layer = next(turns)
            scratch.layers = range(layer, layer + 1)  # each in its turn has the only place
            least[point] = min(least[point], _seconds(stage, *point, scratch))
            works()
    return least


def _seconds(stage: Stage, tokens: int, prefix: int, cache: KVCache) -> float:
    """What so many tokens after `prefix` others take in the layers of this cache."""
    batch = one_span(range(prefix, prefix + tokens), cache, prefix + tokens)
    hidden = stage.embed(torch.arange(tokens) % stage.config.vocab_size)
    start = now(stage.device)
    stage.forward(hidden, batch, cache.layers)
    return now(stage.device) - start


def now(device: torch.device) -> float:
    """Seconds on the clock when all that was started on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fit(times: Times) -> Cost:
    """The cost nearest to the measured times by relative error, up to the longest chunk that wastes next to nothing."""
    token_seconds = {length: _token_seconds(times, length) for length in _LENGTHS}
    least = min(token_seconds.values())
    longest = max(length for length, seconds in token_seconds.items() if seconds <= least * _NEXT_TO_NOTHING)
    points = [(x, prefix, s) for (x, prefix), s in times.items() if x <= longest]
    rows = np.array([[1 / s, prefix / s, x / s, x * (prefix + x / 2) / s] for x, prefix, s in points])
    first = rows @ np.array(_non_negative(rows))  # what is expected over what was measured
    return Cost(longest, *_non_negative(rows[first > _DISTURBED]))


def _token_seconds(times: Times, length: int) -> float:
    """What a token of a chunk of this length takes when it sees as many others as one of any other length."""
    first, last = (times[length, prefix] / length for prefix in _PREFIXES)
    seen = max(_PREFIXES) / 2 - length / 2  # with the half of its own chunk that it sees: half the prefix
    return first + (last - first) * seen / max(_PREFIXES)


def _non_negative(rows: np.ndarray) -> list[float]:
    """The rates >= 0 that bring all rows nearest to 1: those of the best subset of columns, of all subsets."""
    best, least = np.zeros(rows.shape[1]), float("inf")
    for size in range(1, rows.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(rows.shape[1]), size)):
            scale = np.linalg.norm(rows[:, columns], axis=0)
            rates = np.linalg.lstsq(rows[:, columns] / scale, np.ones(len(rows)), rcond=None)[0] / scale
            error = float(np.linalg.norm(rows[:, columns] @ rates - 1))
            if (rates >= 0).all() and error < least:
                best, least = np.zeros(rows.shape[1]), error
                best[columns] = rates
    return [float(rate) for rate in best]


def _key(what: Measured) -> str:
    config = what.config
    heads = f"{config.num_attention_heads}/{config.num_key_value_heads} heads of {config.head_dim}"
    shape = f"{config.num_hidden_layers} layers of {config.hidden_size} to {config.intermediate_size}, {heads}"
    windows = " ".join(f"{count} see {window}" for window, count in Counter(config.sliding_windows).items())
    run = f"{what.threads} threads, {what.dtype}, {what.weights}"
    return f"{measured_on(what.device)}, {run}, {shape}{experts_name(config)}, {windows}"


def experts_name(config: ModelConfig) -> str:
    """What tells a model with experts from others in the keys of measurements."""
    experts = config.experts
    if experts is None:
        return ""
    shared = f" and one of {experts.shared_size}" if experts.shared_size else ""
    layers = f"{sum(config.expert_layers)} of {config.num_hidden_layers} layers"
    return f", {experts.top_k} of {experts.count} experts of {experts.size}{shared} in {layers}"


def _read(kept: Any) -> Cost | None:
    """A cost from the file, which anyone may have edited."""
    try:
        longest, *rates = map(float, kept)
        return Cost(int(longest), *rates) if longest >= 1 and min(rates) >= 0 else None
    except (TypeError, ValueError, OverflowError):
        return None
