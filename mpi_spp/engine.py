"""Load, prefill, sync, decode: one prompt in, a stream of tokens out, the same on every rank."""

import logging
import resource
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mpi_spp import registry
from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.costs import layer_costs
from mpi_spp.errors import UserError
from mpi_spp.kernels.choice import backends, fastest
from mpi_spp.kernels.plain import Plain
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange
from mpi_spp.kv.rounds import plan_rounds
from mpi_spp.model.checkpoint import Checkpoint
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Stage
from mpi_spp.model.device import choose_device, choose_dtype
from mpi_spp.model.quantized import QuantizedStore
from mpi_spp.model.store import cache_directory
from mpi_spp.model.weights import checkpoint_dtype, load_stage, quantize_model, stage_shapes
from mpi_spp.partition import split_as, split_chunks, split_evenly
from mpi_spp.prefill._job import PrefillJob
from mpi_spp.report.timings import Clock
from mpi_spp.sampling.selection import selection_of, with_seed
from mpi_spp.schedule import Cost, plan_chunks, split_by_cost

log = logging.getLogger(__name__)


class Engine:
    """A model spread over the ranks of a job. Making one is collective: it loads, or raises on all ranks."""

    def __init__(self, config: RunConfig, model: ModelConfig, directory: Path, world: World, clock: Clock) -> None:
        self.model, self.world = model, world
        self._program_bytes, self._cache_bytes = _peak_memory(), 0
        self.configure(config, clock)
        self.threads = config.threads or world.default_threads()
        torch.set_num_threads(self.threads)
        self.stage = self._load(directory)
        self._connect()

    def configure(self, config: RunConfig, clock: Clock) -> None:
        """Take the strategies, schedule and selection of another run of the same model, and its clock. Collective."""
        self._prefill, self._sync, self._decode = load_strategies(config)
        config.require_layer_split(self.model.num_hidden_layers, self.world.size)
        self.config, self.clock = with_seed(config, self.world), clock
        self._selection = selection_of(self.config)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache of all layers for `capacity` positions."""
        dtype = torch.int8 if self.config.kv_cache_dtype == "int8" else None
        cache = self.stage.new_cache(range(self.model.num_hidden_layers), capacity, dtype)
        self._cache_bytes = max(self._cache_bytes, cache.nbytes)
        return cache

    def generate(self, prompt_ids: list[int], stop_ids: frozenset[int], max_new_tokens: int) -> Iterator[int]:
        """Yield the answer's token ids, the stop token included, on every rank. Collective."""
        cache = self.new_cache(len(prompt_ids) + max_new_tokens)
        hidden = self.prefill(prompt_ids, cache)
        for token in self.decode(hidden, cache, len(prompt_ids), max_new_tokens):
            yield token
            if token in stop_ids:
                return

    def decode(self, hidden: torch.Tensor, cache: KVCache, position: int, num_tokens: int) -> Iterator[int]:
        """Yield tokens from `position` on, on every rank. `hidden`: the last token's hidden state [1, hidden_size]."""
        last = position + num_tokens - 1
        for place in range(position, last + 1):
            token = self._selection.select(self.stage, hidden, self.comm, [0], [place - position])
            self.clock.mark("first_token" if place == position else "decode_end")
            yield int(token)
            if place < last:
                hidden = self._decode.step(self.stage, cache, token, place)

    def prefill(self, prompt_ids: list[int], cache: KVCache) -> torch.Tensor:
        """Fill the cache on every rank; returns the last token's hidden state [1, hidden_size], on every rank too."""
        spans, self.chunks = self.layer_spans, self._cut(len(prompt_ids))
        self.comm.barrier()
        self.clock.mark("prefill_start")
        rounds = plan_rounds(self.config.sync_granularity, spans, self.chunks)
        exchange = Exchange(self.kv_comm, self._sync.exchange, cache, rounds)
        ids = torch.tensor(prompt_ids)
        job = PrefillJob(self.stage, self.comm, ids, self.chunks, spans, cache, exchange)
        hidden = self._prefill.prefill(job)
        self._mark_done("prefill_end")
        exchange.finish()
        self.comm.barrier()
        self._mark_done("sync_end")
        self.comm.broadcast(hidden, root=self.comm.size - 1)
        return hidden

    def facts(self) -> dict[str, Any]:
        """What this rank is and did, as plain values."""
        span = self.layer_spans[self.world.rank]
        return {
            "rank": self.world.rank,
            "host": self.world.host,
            "device": str(self.stage.device),
            "threads": self.threads,
            "kernels": self.kernels,
            "affinity": self.world.cores,
            "prefill_layers": [span.start, span.stop],
            "decode_layers": [0, self.model.num_hidden_layers],
            "vocabulary": [self.stage.vocabulary.start, self.stage.vocabulary.stop],
            "peak_memory_bytes": _peak_memory(),
            "program_bytes": self._program_bytes,  # the peak before anything of the model was read
            "weights_bytes": self.stage.weights.nbytes,
            "cache_bytes": self._cache_bytes,
            "peak_gpu_memory_bytes": self._peak_gpu_memory(),
            "bytes_sent": self.comm.bytes_sent + self.kv_comm.bytes_sent,
            "kv_bytes_sent": self.kv_comm.bytes_sent,
            "moments": self.clock.moments,
        }

    def schedule(self) -> dict[str, Any]:
        """What was decided for the last prefill, as plain values."""
        return {"chunks": [len(chunk) for chunk in self.chunks], "layers": [len(span) for span in self.layer_spans]}

    @property
    def layer_spans(self) -> list[range]:
        """The layers of each rank in the prefill. Collective as long as costs are needed and not known."""
        split, num_layers = self.config.layer_split, self.model.num_hidden_layers
        if isinstance(split, tuple):
            return split_as(split)
        return split_evenly(num_layers, self.world.size) if split == "even" else split_by_cost(num_layers, self._costs)

    def _cut(self, num_tokens: int) -> list[range]:
        """The prompt's chunks. Collective as long as costs are needed and not known."""
        if self.config.chunk_size != "auto":
            return split_chunks(num_tokens, self.config.chunk_size)
        spans = zip(self._costs, self.layer_spans, strict=True)
        return plan_chunks(num_tokens, tuple(cost.times(len(span)) for cost, span in spans))

    @cached_property
    def _costs(self) -> list[Cost]:
        """What a layer costs on each rank. Collective when it is first looked at."""
        weights = f"{self.kernels} {self.config.quantize} by {self.config.quantize_group_size}"
        costs = layer_costs(self.stage, weights, self.threads, self.world, cache_directory() / "kernels")
        log.info("costs of a layer: %s", costs)
        return costs

    def _load(self, directory: Path) -> Stage:
        """Check the files' headers on all ranks before any rank spends time on reading weights."""
        layers = range(self.model.num_hidden_layers)
        vocabulary = split_evenly(self.model.vocab_size, self.world.size)[self.world.rank]

        def check() -> tuple[Checkpoint, torch.device]:
            checkpoint = Checkpoint(directory)
            checkpoint.require(stage_shapes(self.model, layers))
            world, config = self.world, self.config
            return checkpoint, choose_device(config.device, config.gpu_ids, world.local_rank, world.local_size)

        checkpoint, device = self.world.together(check)
        dtype = choose_dtype(self.config.dtype, self.model.dtype or checkpoint_dtype(checkpoint), device)
        backend = self._choose_kernels(dtype, device)
        log.info("loading %s as %s on %s, kernels: %s", directory, dtype, device, self.kernels)
        store = self._quantized(directory, checkpoint)
        return self.world.together(
            lambda: load_stage(checkpoint, self.model, layers, vocabulary, dtype, device, backend, store)
        )

    def _choose_kernels(self, dtype: torch.dtype, device: torch.device) -> Plain:
        """The back end that was asked for, or the fastest of this host. Collective."""
        shape = (2 * self.model.intermediate_size, self.model.hidden_size)  # the widest of a layer's products
        kept, wanted = cache_directory() / "kernels", self.config.kernels

        def choose() -> str:
            found = backends(dtype, device, kept)
            if wanted not in ("auto", *found):
                raise UserError(
                    f"--kernels: {wanted} cannot run {dtype} on {device} of {self.world.host};"
                    f" choose one of auto, {', '.join(found)}"
                )
            return fastest(shape, dtype, device, kept) if wanted == "auto" else wanted

        self.kernels = self.world.once_a_host(choose)
        return backends(dtype, device, kept)[self.kernels]

    def _quantized(self, directory: Path, checkpoint: Checkpoint) -> QuantizedStore | None:
        """The quantised weights, if asked for; the ranks of a host share the work of making them. Collective."""
        config, world = self.config, self.world
        if config.quantize is None:
            return None
        store = QuantizedStore(cache_directory() / "quantized", directory, config.quantize, config.quantize_group_size)
        share = slice(world.local_rank, None, world.local_size)
        world.together(lambda: quantize_model(checkpoint, self.model, store, share, shows=world.rank == 0))
        return store

    def _connect(self) -> None:
        """Two conversations that never mix: hidden states and tokens, and the KV sync."""
        mpi_comm, device = self.world.mpi_comm, self.stage.device
        aware = device.type == "cuda" and is_cuda_aware(self.config.cuda_aware, mpi_comm)
        shares_core = self.world.shares_core(self.threads)
        self.comm = Communicator(mpi_comm.Dup(), choose_staging(device, aware), shares_core)
        self.kv_comm = self.comm.duplicate()
        log.info("device %s, CUDA-aware MPI %s, threads %d on cores %s", device, aware, self.threads, self.world.cores)

    def _mark_done(self, name: str) -> None:
        if self.stage.device.type == "cuda":
            torch.cuda.synchronize(self.stage.device)
        self.clock.mark(name)
        log.info("%s at %.3f s", name, self.clock.moments[name])

    def _peak_gpu_memory(self) -> int:
        return torch.cuda.max_memory_allocated(self.stage.device) if self.stage.device.type == "cuda" else 0


def _peak_memory() -> int:
    """The most bytes that were ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def load_strategies(config: RunConfig) -> tuple[Any, Any, Any]:
    """The modules of the chosen prefill, sync and decode, of which the sync joins the two others."""
    prefill = registry.load("prefill", config.prefill)
    sync = registry.load("sync", config.sync_strategy)
    decode = registry.load("decode", config.decode)
    if sync.JOINS != (prefill.LEAVES, decode.WANTS):
        raise UserError(
            f"--sync-strategy: {config.sync_strategy} joins caches from '{sync.JOINS[0]}' to '{sync.JOINS[1]}', but"
            f" prefill {config.prefill} leaves '{prefill.LEAVES}' and decode {config.decode} wants '{decode.WANTS}'"
        )
    return prefill, sync, decode
