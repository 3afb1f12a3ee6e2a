"""What a rank is and did, as plain values for reports; and what of it a user may not expect."""

from typing import Any

from mpi_spp.comm.world import World
from mpi_spp.engine.caches import Caches
from mpi_spp.engine.communicators import Communicators
from mpi_spp.engine.loading import Loader
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.finite import weights_in_order
from mpi_spp.parallel.phase import Phase
from mpi_spp.strategies.assignment import Plan
from mpi_spp.system import cpu
from mpi_spp.system.memory import peak_bytes, peak_gpu_bytes
from mpi_spp.system.units import counted


def of_machine(world: World, loader: Loader, threads: int) -> dict[str, Any]:
    """Where the rank stands, and what it computes with."""
    return {
        "rank": world.rank,
        "host": world.host,
        "device": str(loader.device),
        "threads": threads,
        "kernels": loader.kernels,
        "kernels_reason": loader.chosen.why,
        "activations": loader.chosen.activations,
        "compiler": loader.compiler,
        **cpu.facts(),
        "affinity": world.cores,
        "cpu_quota": world.cpu_quota,
    }


def of_part(plan: Plan, links: Communicators, stage: Stage, caches: Caches) -> dict[str, Any]:
    """What of the model it has in each phase, the memory that this took, and what it sent."""
    rank = links.replica.rank
    return {
        **_layers_and_heads("prefill", plan.prefill, rank),
        **_layers_and_heads("decode", plan.decode, rank),
        "vocabulary": [stage.vocabulary.start, stage.vocabulary.stop],
        "peak_memory_bytes": peak_bytes(),
        "weights_bytes": stage.weights.nbytes,
        "cache_bytes": caches.most_bytes,
        "peak_gpu_memory_bytes": peak_gpu_bytes(stage.device),
        "bytes_sent": links.bytes_sent,
        "kv_bytes_sent": links.kv.bytes_sent,
    }


def warnings(world: World, loader: Loader, threads: int) -> list[str]:
    """What makes this rank's part slower or larger, or the model another one, than a user may expect."""
    told = (loader.chosen.warning, world.quota_warning(threads), _unused_tensors(loader))
    return [warning for warning in told if warning]


def _unused_tensors(loader: Loader) -> str | None:
    """As transformers says it, which leaves them out, too."""
    unused = loader.checkpoint.unused(weights_in_order(loader.model))
    if not unused:
        return None
    told = counted(len(unused), "tensor")
    return f"{loader.directory}: of the weights {told} ({unused[0]} ...) left out: config.json has no place for them"


def _layers_and_heads(name: str, phase: Phase, rank: int) -> dict[str, list[int]]:
    span, heads = phase.spans[rank], phase.regions[rank].heads
    return {f"{name}_layers": [span.start, span.stop], f"{name}_kv_heads": [heads.start, heads.stop]}
