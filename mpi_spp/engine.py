"""Load, prefill, sync, decode: prompts in, a stream of tokens out, the same on every rank of a replica."""

import logging
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.total import SumOverRanks
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.decode._job import DecodeJob, Growing
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange, Move
from mpi_spp.kv.rounds import plan_rounds
from mpi_spp.loading import Loader
from mpi_spp.mesh import mesh_of
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Shard
from mpi_spp.partition import split_chunks
from mpi_spp.phase import Phase, needed
from mpi_spp.prefill._job import PrefillJob
from mpi_spp.report.timings import Clock
from mpi_spp.sampling.selection import selection_of, with_seed
from mpi_spp.schedule import Cost, plan_chunks
from mpi_spp.strategies import Strategies, load_strategies, plan_phases

log = logging.getLogger(__name__)

_CHUNK_ALONE = 256  # tokens: more do not make the products faster


@dataclass(frozen=True)
class Request:
    """A prompt, and where its answer ends."""

    prompt_ids: list[int]
    stop_ids: frozenset[int]
    max_new_tokens: int


class Engine:
    """A model spread over the ranks of a job. Making one is collective: it loads, or raises on all ranks."""

    def __init__(
        self,
        config: RunConfig,
        model: ModelConfig,
        directory: Path,
        world: World,
        clock: Clock,
        alone: bool = False,
    ) -> None:
        """`alone`: after a prefill by all, each rank decodes sequences of its own, with the whole vocabulary."""
        self.model, self.world, self._alone = model, world, alone
        self._program_bytes, self._cache_bytes = _peak_memory(), 0
        self.threads = config.threads or world.default_threads()
        torch.set_num_threads(self.threads)
        self.mesh = mesh_of(config.mesh, world.size)
        load_strategies(config, self.mesh, alone)  # refuses what does not fit before any file is read
        self._loader = Loader(config, model, directory, world, self.threads)
        self._connect(config)
        self._held: Any = None
        self.configure(config, clock)

    def configure(self, config: RunConfig, clock: Clock) -> None:
        """Take the strategies, schedule and granularity of another run of the same model, and its clock. Collective."""
        self._strategies: Strategies = load_strategies(config, self.mesh, self._alone)
        self.config, self.clock = with_seed(config, self.world), clock
        self._selection = selection_of(self.config)
        plan = plan_phases(self._strategies, config, self.model, lambda: self._costs)
        self._prefill_phase, self._decode_phase = plan.prefill, plan.decode
        held = (len(plan.shares), needed((plan.prefill, plan.decode), self.comm.rank))
        slices, mine = self._selecting.size, self._selecting.rank
        if held != self._held:
            self.__dict__.pop("stage", None)  # what it holds should not be in memory beside the next one
            self.stage = self._loader.stage(held[1], slices, mine, plan.shares)
            self._held = held
        self._prefill_shard, self._decode_shard = map(self._shard, (plan.prefill, plan.decode))

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for `capacity` positions of what this rank needs in the decode."""
        return self._new_cache(self._decode_phase, capacity)

    def generate(self, prompt_ids: list[int], stop_ids: frozenset[int], max_new_tokens: int) -> Iterator[int]:
        """Yield the answer's token ids, the stop token included, on every rank. Collective."""
        for _, token in self.generate_batch([Request(prompt_ids, stop_ids, max_new_tokens)]):
            yield token

    def generate_batch(self, requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
        """Yield a request's number with its next token, on every rank: one prefill after another, then all at once."""
        caches = [self.new_cache(len(one.prompt_ids) + one.max_new_tokens) for one in requests]
        hidden = torch.cat([self.prefill(one.prompt_ids, cache) for one, cache in zip(requests, caches, strict=True)])
        yield from self.decode(requests, caches, hidden)

    def decode(
        self, requests: Sequence[Request], caches: Sequence[KVCache], hidden: torch.Tensor, first_number: int = 0
    ) -> Iterator[tuple[int, int]]:
        """The same after the prefills. `hidden`: the last tokens' hidden states [requests, hidden_size].

        The requests are numbered from `first_number` on, also for the draws.
        """
        pairs = enumerate(zip(requests, caches, strict=True), first_number)
        growing = [Growing(number, cache, len(one.prompt_ids)) for number, (one, cache) in pairs]
        for sequences, tokens in self._strategies.decode.decode(self._decode_job(), growing, hidden):
            self.clock.mark("decode_end" if sequences[0].taken else "first_token")
            for sequence, token in zip(sequences, tokens.tolist(), strict=True):
                request = requests[sequence.number - first_number]
                sequence.taken += 1
                sequence.finished = token in request.stop_ids or sequence.taken == request.max_new_tokens
                yield sequence.number, token

    def prefill(self, prompt_ids: list[int], cache: KVCache) -> torch.Tensor:
        """Fill this rank's part of the cache; returns the last token's hidden state [1, hidden_size], on every rank."""
        self.chunks = self._cut(len(prompt_ids))
        self.comm.barrier()
        self.clock.mark("prefill_start")
        phase, rank = self._prefill_phase, self.comm.rank
        source = self._source_of(cache, len(prompt_ids))
        exchange = self._exchange(source, cache)
        job = PrefillJob(
            self.stage,
            self.comm,
            phase.places[rank],
            phase.spans[rank],
            self._prefill_shard,
            torch.tensor(prompt_ids),
            self.chunks,
            source,
            exchange,
        )
        hidden = self._strategies.prefill.prefill(job)
        self._mark_done("prefill_end")
        exchange.finish()
        self.comm.barrier()
        self._mark_done("sync_end")
        if phase.places[0].num_stages > 1:
            self.comm.broadcast(hidden, root=phase.last)
        return hidden

    def prefill_alone(self, prompt_ids: list[int], known: int, cache: KVCache) -> torch.Tensor:
        """As `prefill`, behind `known` positions of a whole cache, at least one token, and without other ranks."""
        job, tokens, hidden = self._decode_job(), torch.tensor(prompt_ids[known:]), None
        for chunk in split_chunks(len(tokens), _CHUNK_ALONE):
            positions = range(known + chunk.start, known + chunk.stop)
            hidden = self.stage.embed(tokens[chunk.start : chunk.stop])
            self.stage.forward(hidden, one_span(positions, cache, len(prompt_ids)), job.layers, job.shard)
        assert hidden is not None
        return hidden[-1:]

    def facts(self) -> dict[str, Any]:
        """What this rank is and did, as plain values."""
        prefill, decode = (_part_of(phase, self.comm.rank) for phase in (self._prefill_phase, self._decode_phase))
        return {
            "rank": self.world.rank,
            "host": self.world.host,
            "device": str(self.stage.device),
            "threads": self.threads,
            "kernels": self._loader.kernels,
            "affinity": self.world.cores,
            "prefill_layers": prefill["layers"],
            "decode_layers": decode["layers"],
            "prefill_kv_heads": prefill["kv_heads"],
            "decode_kv_heads": decode["kv_heads"],
            "vocabulary": [self.stage.vocabulary.start, self.stage.vocabulary.stop],
            "peak_memory_bytes": _peak_memory(),
            "program_bytes": self._program_bytes,  # the peak before anything of the model was read
            "weights_bytes": self.stage.weights.nbytes,
            "cache_bytes": self._cache_bytes,
            "peak_gpu_memory_bytes": self._peak_gpu_memory(),
            "bytes_sent": self.comm.bytes_sent + self.kv_comm.bytes_sent + sum(of.bytes_sent for of in self._sums()),
            "kv_bytes_sent": self.kv_comm.bytes_sent,
            "moments": self.clock.moments,
        }

    def schedule(self) -> dict[str, Any]:
        """What was decided for the last prefill, as plain values."""
        phase = self._prefill_phase
        spans = {place.stage: len(span) for place, span in zip(phase.places, phase.spans, strict=True)}
        return {
            "chunks": [len(chunk) for chunk in self.chunks],
            "layers": [spans[stage] for stage in sorted(spans)],
            "sync_strategy": self._strategies.sync_name,
        }

    def _cut(self, num_tokens: int) -> list[range]:
        """The prompt's chunks. Collective as long as costs are needed and not known."""
        if self.config.chunk_size != "auto":
            return split_chunks(num_tokens, self.config.chunk_size)
        slowest: dict[int, Cost] = {}
        for cost, place, span in zip(self._costs, self._prefill_phase.places, self._prefill_phase.spans, strict=True):
            whole = cost.times(len(span) / place.num_shards)
            known = slowest.setdefault(place.stage, whole)
            slowest[place.stage] = max(known, whole, key=lambda one: one.seconds(0, one.longest) / one.longest)
        return plan_chunks(num_tokens, tuple(slowest[stage] for stage in sorted(slowest)))

    @cached_property
    def _costs(self) -> list[Cost]:
        """What a layer costs on each rank of this replica. Collective when it is first looked at."""
        first = self.world.rank - self.comm.rank
        return self._loader.costs()[first : first + self.comm.size]

    def _source_of(self, cache: KVCache, num_tokens: int) -> KVCache:
        """The cache that the prefill fills: the decode's own where it has room for all that the prefill makes here."""
        region, target = (phase.regions[self.comm.rank] for phase in (self._prefill_phase, self._decode_phase))
        if region.is_within(target):
            return cache
        source = self._new_cache(self._prefill_phase, num_tokens)
        self._cache_bytes = max(self._cache_bytes, source.nbytes + cache.nbytes)
        return source

    def _new_cache(self, phase: Phase, capacity: int) -> KVCache:
        dtype, region = torch.int8 if self.config.kv_cache_dtype == "int8" else None, phase.regions[self.comm.rank]
        cache = self.stage.new_cache(region.layers, capacity, dtype, region.heads)
        self._cache_bytes = max(self._cache_bytes, cache.nbytes)
        return cache

    def _exchange(self, source: KVCache, target: KVCache) -> Exchange:
        phase, sync = self._prefill_phase, self._strategies.sync
        stages = [place.stage for place in phase.places]
        rounds = plan_rounds(self.config.sync_granularity, phase.regions, stages, self.chunks)
        if phase.regions == self._decode_phase.regions:
            rounds = []
        move = Move(source, target, self._decode_phase.regions)
        return Exchange(self.kv_comm, sync.MOVES, sync.exchange, move, rounds)

    def _decode_job(self) -> DecodeJob:
        phase, rank = self._decode_phase, self.comm.rank
        return DecodeJob(
            self.stage,
            self.comm,
            phase.places[rank],
            phase.spans[rank],
            self._decode_shard,
            self._select,
        )

    def _select(self, sequences: Sequence[Growing], hidden: torch.Tensor) -> torch.Tensor:
        numbers, steps = [one.number for one in sequences], [one.taken for one in sequences]
        return self._selection.select(self.stage, hidden, self._selecting, numbers, steps)

    def _shard(self, phase: Phase) -> Shard:
        """What this rank computes of each layer, and with whom. Collective when the group is a new one."""
        rank, place = self.comm.rank, phase.places[self.comm.rank]
        if place.num_shards == 1:
            return Shard(phase.shares[rank])
        key = tuple((place.stage, place.shard) for place in phase.places)
        if key not in self._groups:
            self._groups[key] = self.comm.split(place.stage, place.shard)
        return Shard(phase.shares[rank], SumOverRanks(self._groups[key]))

    def _sums(self) -> list[Communicator]:
        return list(self._groups.values())

    def _connect(self, config: RunConfig) -> None:
        """Two conversations that never mix: hidden states and tokens, and the KV sync."""
        device, world = self._loader.device, self.world
        aware = device.type == "cuda" and is_cuda_aware(config.cuda_aware, world.mpi_comm)
        shares_core = world.shares_core(self.threads)
        everyone = Communicator(world.mpi_comm, choose_staging(device, aware), shares_core)
        self.comm = everyone.split(world.rank // self.mesh.replica_size, world.rank)
        self.kv_comm = self.comm.duplicate()
        self._selecting = self.comm.alone() if self._alone else self.comm  # who shares the vocabulary
        self._groups: dict[Any, Communicator] = {}
        log.info("device %s, CUDA-aware MPI %s, threads %d on cores %s", device, aware, self.threads, world.cores)

    def _mark_done(self, name: str) -> None:
        if self.stage.device.type == "cuda":
            torch.cuda.synchronize(self.stage.device)
        self.clock.mark(name)
        log.info("%s at %.3f s", name, self.clock.moments[name])

    def _peak_gpu_memory(self) -> int:
        return torch.cuda.max_memory_allocated(self.stage.device) if self.stage.device.type == "cuda" else 0


def _part_of(phase: Phase, rank: int) -> dict[str, list[int]]:
    span, heads = phase.spans[rank], phase.regions[rank].heads
    return {"layers": [span.start, span.stop], "kv_heads": [heads.start, heads.stop]}


def _peak_memory() -> int:
    """The most bytes that were ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
