"""Measures the phases of an engine: the cases take turns, so that a drifting machine hits all alike."""

import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.instruments.report.experts import expert_load
from mpi_spp.instruments.report.samples import describe
from mpi_spp.instruments.report.summary import timings_of
from mpi_spp.system import cpu
from mpi_spp.system.progress import track
from mpi_spp.system.timings import Clock

_COMPUTES_WITH = (
    "kernels",
    "kernels_reason",
    "activations",
    "compiler",
    "cpu",
    "instruction_sets",
    "believed_cpu",
    "cpu_quota",
)
_WHERE = ("rank", "host", "device", "threads", "affinity", *_COMPUTES_WITH)
_SENT = ("bytes_sent", "kv_bytes_sent")
_MEMORY = ("peak_memory_bytes", "program_bytes", "weights_bytes", "cache_bytes")


@dataclass(frozen=True)
class Workload:
    """The lengths of a measured request, in tokens, and how often it is run."""

    prompt_tokens: int
    new_tokens: int
    warmup: int
    repetitions: int


def prompt_ids_of(count: int, vocab_size: int) -> list[int]:
    """Token ids without a pattern that a cache could use; the time of a dense model does not depend on them."""
    return torch.randint(vocab_size, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def measure(engine: Engine, configs: dict[str, RunConfig], workload: Workload, kind: str) -> list[dict[str, Any]]:
    """One case for every named configuration: samples of tokens per second, and of the phases. Collective.

    `kind`: "prefill" counts prompt tokens over the prefill with its exposed sync, "decode" new tokens over the decode,
    "e2e" new tokens over the whole request.
    """
    for config in configs.values():
        engine.configure(config, Clock())  # refuses what cannot work before the first measurement
    prompt_ids = prompt_ids_of(workload.prompt_tokens, engine.model.vocab_size)
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
    schedules: dict[str, dict[str, Any]] = {}
    for counts in _rounds(workload, engine.world.rank == 0):
        for name, config in configs.items():
            sample, told = _run_once(engine, config, prompt_ids, workload.new_tokens if kind != "prefill" else 1)
            schedules[name] = engine.schedule() | told
            if counts:
                timings[name].append(sample)
    return [_case(name, timings[name], _speed_of(kind, workload)) | schedules[name] for name in configs]


def machine(engine: Engine) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        **cpu.facts(),
        "torch": torch.__version__,
        "mpi": engine.world.library,
        "ranks": [
            {name: value for name, value in rank.items() if name in (*_WHERE, *_MEMORY)}
            for rank in engine.world.gather(engine.facts())
        ],
    }


def _rounds(workload: Workload, shows: bool) -> Iterator[bool]:
    """False for a warm-up round, True for a measured one."""
    for number in track(range(workload.warmup + workload.repetitions), "measuring", "round", shows):
        yield number >= workload.warmup


def _run_once(
    engine: Engine, config: RunConfig, prompt_ids: list[int], new_tokens: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The timings of one request, the bytes that each rank sent in it and its experts' load; the same on all ranks.

    Where another configuration had other weights, one more comes first: all memory is new then, and slow.
    """
    before = weakref.ref(engine.stage)  # which is let go before another is loaded, on all ranks or on none
    engine.configure(config, Clock())
    if before() is not engine.stage:
        for _ in engine.generate(prompt_ids, frozenset(), 1):
            pass
        engine.configure(config, Clock())
    facts_before = engine.facts()
    for _ in engine.generate(prompt_ids, frozenset(), new_tokens):
        pass
    engine.clock.mark("total")
    facts = engine.facts()
    ranks = engine.world.gather(facts | {name: facts[name] - facts_before[name] for name in _SENT})
    told = {name: [rank[name] for rank in ranks] for name in _SENT} | {"experts": expert_load(ranks)}
    return timings_of(ranks, ranks[0]["moments"]["total"]), told


def _speed_of(kind: str, workload: Workload) -> Callable[[dict[str, float]], float]:
    """Tokens per second of one request's timings."""
    if kind == "prefill":
        return lambda t: workload.prompt_tokens / (t["prefill_s"] + t["sync_exposed_s"])
    if kind == "decode":
        return lambda t: (workload.new_tokens - 1) / t["decode_s"]
    return lambda t: workload.new_tokens / (t["first_token_s"] + t["decode_s"])


def _case(name: str, timings: list[dict[str, float]], speed: Callable[[dict[str, float]], float]) -> dict[str, Any]:
    shares = [t["sync_exposed_s"] / t["prefill_s"] for t in timings]
    return {
        "name": name,
        "unit": "tokens/s",
        **describe([speed(t) for t in timings]),
        "sync_exposed_share": describe(shares)["median"] if max(shares) > 0 else 0.0,
        "timings": timings,
        "measured_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
