"""Load, prefill, sync, decode: prompts in, a stream of tokens out, the same on every rank of a replica."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mpi_spp import cpu
from mpi_spp.caches import Caches
from mpi_spp.comm.life import works
from mpi_spp.comm.world import World, abort_with
from mpi_spp.config import RunConfig
from mpi_spp.connections import Connections
from mpi_spp.decode._job import DecodeJob, Growing
from mpi_spp.diagnosis import not_finite
from mpi_spp.errors import UserError
from mpi_spp.kv.cache import KVCache
from mpi_spp.limits import require_threads
from mpi_spp.loading import Loader
from mpi_spp.measuring import Measuring
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import ModelConfig
from mpi_spp.partition import split_chunks
from mpi_spp.phase import Phase, needed
from mpi_spp.plan.setting import Setting, cut
from mpi_spp.plan.settle import limits_of, needs_settling, settle
from mpi_spp.prefill._job import PrefillJob
from mpi_spp.report.memory import peak_bytes, peak_gpu_bytes, resident_bytes
from mpi_spp.report.progress import Progress
from mpi_spp.report.timed import timed
from mpi_spp.report.timings import Clock
from mpi_spp.request import NO_PENALTIES, Penalties, Request
from mpi_spp.sampling.penalties import Seen, seen_of
from mpi_spp.sampling.selection import selection_of, with_seed
from mpi_spp.sampling.shard import NOT_FINITE
from mpi_spp.strategies import Strategies, load_strategies, plan_phases
from mpi_spp.teams import teams_of

log = logging.getLogger(__name__)

_CHUNK_ALONE = 256  # tokens: more do not make the products faster


class Engine:
    """A model spread over the ranks of a job. Making one is collective: it loads, or raises on all ranks."""

    def __init__(
        self,
        config: RunConfig,
        model: ModelConfig,
        directory: Path,
        world: World,
        clock: Clock,
        prompt_tokens: int = 1024,
        alone: bool = False,
    ) -> None:
        """`prompt_tokens`: the prompts to expect, by which strategies are chosen where they are "auto".

        `alone`: after a prefill by all, each rank decodes sequences of its own, with the whole vocabulary.
        """
        self.model, self.world, self._prompt_tokens, self._alone = model, world, prompt_tokens, alone
        self._program_bytes = resident_bytes()
        self.threads = config.threads or world.default_threads()
        world.together(lambda: require_threads(self.threads))
        torch.set_num_threads(self.threads)
        team = next(team for team in teams_of(config, world.size) if world.rank in team.ranks)
        self.mesh = team.mesh
        if not config.is_open:
            load_strategies(config, self.mesh, alone)  # refuses what does not fit before any file is read
        self._loader = Loader(config, model, directory, world, self.threads)
        device = self._loader.device
        how = (config.cuda_aware, self.threads, alone, config.is_guided)
        self._links = Connections(world, team.ranks, device, *how)
        self.comm, self.kv_comm = self._links.replica, self._links.kv
        self._measuring = Measuring(self._loader, self.comm, world)
        self._held: Any = None
        self._experts: dict[str, list[int]] | None = None  # of the last prefill
        self.configure(config, clock)

    def configure(self, config: RunConfig, clock: Clock) -> None:
        """Take the strategies, schedule and granularity of another run of the same model, and its clock. Collective."""
        if self._alone and config.decode == "auto":
            config = replace(config, decode="replicated")
        config, self.choice = self._settle(config)
        self._strategies: Strategies = load_strategies(config, self.mesh, self._alone)
        if self._strategies.shares_memory and self._loader.device.type != "cpu":
            raise UserError("--sync-strategy: shared is for caches in the memory of hosts; choose another one for GPUs")
        self.config, self.clock = with_seed(config, self.world), clock
        self._selection = selection_of(self.config)
        plan = plan_phases(self._strategies, config, self.model, lambda: self._measuring.costs)
        if config.chunk_size == "auto" or (config.is_guided and config.layer_split == "auto"):
            # Measured, if need be, before the stage is loaded: on layers of their own. By all ranks: of a guidance
            # pair one half may have no layers to split.
            _ = self._measuring.costs
        self._plan, self._prefill_phase, self._decode_phase = plan, plan.prefill, plan.decode
        held = (plan.shares_on(self.comm.rank), needed((plan.prefill, plan.decode), self.comm.rank))
        selecting = self._links.selecting
        if any(self.world.gather(held != self._held)):  # loading is for all ranks together
            for name in ("stage", "_caches"):  # the weights should not be in memory beside the next ones
                self.__dict__.pop(name, None)
            self.stage = self._loader.stage(held[1], selecting.size, selecting.rank, held[0])
            self._held = held
        self._prefill_shard, self._decode_shard = (
            self._links.shard(phase, plan, self.model, self._loader.dtype, lambda: self._measuring.links)
            for phase in (plan.prefill, plan.decode)
        )
        self._prefill_parts = self._links.parts(plan.prefill)
        dtype = torch.int8 if config.kv_cache_dtype == "int8" else None
        self._caches = Caches(self.stage, self._links, self._strategies, plan, dtype, config.sync_granularity)

    def new_cache(self, capacity: int, prompt_tokens: int | None = None) -> KVCache:
        """An empty cache for `capacity` positions of what this rank needs in the decode; None: all of the prompt."""
        return self._caches.target(capacity, self._cut(prompt_tokens or capacity))

    def generate(
        self, prompt_ids: list[int], stop_ids: frozenset[int], max_new_tokens: int, penalties: Penalties = NO_PENALTIES
    ) -> Iterator[int]:
        """Yield the answer's token ids, the stop token included, on every rank. Collective."""
        for _, token in self.generate_batch([Request(prompt_ids, stop_ids, max_new_tokens, penalties=penalties)]):
            yield token

    def generate_batch(
        self, requests: Sequence[Request], between: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[int, int]]:
        """Yield a request's number with its next token, on every rank: one prefill after another, then all at once.

        `between` is called after each prefill: whoever waits for this rank should not wait for all of them.
        """
        lengths = [len(one.prompt_ids) for one in requests]
        caches = [self.new_cache(n + one.max_new_tokens, n) for n, one in zip(lengths, requests, strict=True)]
        hidden = []
        for one, cache in zip(requests, caches, strict=True):
            hidden.append(self.prefill(one.prompt_ids, cache))
            between()
        yield from self.decode(requests, caches, torch.cat(hidden))
        caches.clear()
        self._links.shared.free()

    def decode(
        self, requests: Sequence[Request], caches: Sequence[KVCache], hidden: torch.Tensor
    ) -> Iterator[tuple[int, int]]:
        """The same after the prefills. `hidden`: the last tokens' hidden states [requests, hidden_size]."""
        pairs = enumerate(zip(requests, caches, strict=True))
        growing = [Growing(number, one.stream, cache, len(one.prompt_ids)) for number, (one, cache) in pairs]
        seen = [seen_of(one, self.stage.vocabulary, self.stage.device) for one in requests]
        for sequences, tokens in self._strategies.decode.decode(self._decode_job(seen), growing, hidden):
            self.clock.mark("decode_end" if sequences[0].taken else "first_token")
            for sequence, token in zip(sequences, tokens.tolist(), strict=True):
                request = requests[sequence.number]
                sequence.taken += 1
                if (before := seen[sequence.number]) is not None:
                    before.add(token)
                sequence.finished = request.ends_with(token, sequence.taken)
                yield sequence.number, token

    def prefill(self, prompt_ids: list[int], cache: KVCache) -> torch.Tensor:
        """Fill this rank's part of the cache; returns the last token's hidden state [1, hidden_size], on every rank."""
        self.chunks = self._cut(len(prompt_ids))
        self.comm.barrier()
        self._mark("prefill_start")
        phase, rank = self._prefill_phase, self.comm.rank
        source = self._caches.source(cache, self.chunks)
        exchange = self._caches.exchange(source, cache, self.chunks)
        job = PrefillJob(
            self.stage,
            self.comm,
            phase.places[rank],
            phase.spans[rank],
            self._prefill_shard,
            torch.tensor(prompt_ids),
            self.chunks,
            self._plan.prefill_parts(self.chunks),
            self._prefill_parts,
            source,
            exchange,
            Progress("prefill", len(prompt_ids), "token", shows=self.world.rank == 0),
        )
        self.stage.load.clear()
        with timed("prefill", tokens=len(prompt_ids)):
            hidden = self._strategies.prefill.prefill(job)
            self._mark("prefill_end")
        with timed("sync"):
            exchange.finish()
            self.comm.barrier()
            self._mark("sync_end")
        experts = self.model.experts
        self._experts = None if experts is None else self.stage.load.by_expert(experts.count)
        if phase.places[0].num_stages > 1:
            self.comm.broadcast(hidden, root=phase.last)
        return hidden

    def prefill_alone(self, prompt_ids: list[int], known: int, cache: KVCache) -> torch.Tensor:
        """As `prefill`, behind `known` positions of a whole cache, at least one token, and without other ranks."""
        job, tokens, hidden = self._decode_job(), torch.tensor(prompt_ids[known:]), None
        for chunk in split_chunks(len(tokens), _CHUNK_ALONE):
            positions = range(known + chunk.start, known + chunk.stop)
            hidden = self.stage.embed(tokens[chunk.start : chunk.stop])
            batch = one_span(positions, cache, len(prompt_ids))
            self.stage.forward(hidden, batch, job.layers, job.shard, lambda layer: works())
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
            "kernels_reason": self._loader.chosen.why,
            "activations": self._loader.chosen.activations,
            "compiler": self._loader.compiler,
            **cpu.facts(),
            "affinity": self.world.cores,
            "cpu_quota": self.world.cpu_quota,
            "prefill_layers": prefill["layers"],
            "decode_layers": decode["layers"],
            "prefill_kv_heads": prefill["kv_heads"],
            "decode_kv_heads": decode["kv_heads"],
            "vocabulary": [self.stage.vocabulary.start, self.stage.vocabulary.stop],
            "peak_memory_bytes": peak_bytes(),
            "program_bytes": self._program_bytes,  # resident before anything of the model was read
            "weights_bytes": self.stage.weights.nbytes,
            "cache_bytes": self._caches.most_bytes,
            "peak_gpu_memory_bytes": peak_gpu_bytes(self.stage.device),
            "bytes_sent": self._links.bytes_sent,
            "kv_bytes_sent": self.kv_comm.bytes_sent,
            "experts": self._experts,
            "moments": self.clock.moments,
        }

    @property
    def warnings(self) -> list[str]:
        """What makes this rank's part slower or larger than a user may expect."""
        return [told for told in (self._loader.chosen.warning, self.world.quota_warning(self.threads)) if told]

    def schedule(self) -> dict[str, Any]:
        """What was decided for the last prefill, as plain values."""
        phase = self._prefill_phase
        spans = {place.stage: len(span) for place, span in zip(phase.places, phase.spans, strict=True)}
        return {
            "chunks": [len(chunk) for chunk in self.chunks],
            "layers": [spans[stage] for stage in sorted(spans)],
            "sync_strategy": self._strategies.sync_name,
            "choice": self.choice,
        }

    def _settle(self, config: RunConfig) -> tuple[RunConfig, dict[str, Any] | None]:
        """The strategies in the place of "auto", and why; refuses what needs more than --max-memory. Collective."""
        if not needs_settling(config):
            return config, None
        world, first = self.world, self.world.rank - self.comm.rank
        hosts, replica = world.gather(world.host), slice(first, first + self.comm.size)
        setting = Setting(
            config,
            self.model,
            self.mesh,
            hosts[replica],
            self._loader.dtype,
            self._loader.kernels,
            self._prompt_tokens,
            config.max_new_tokens,
            self._measuring.speeds,
            limits_of(config, hosts, replica),
            max(world.gather(self._program_bytes)),
        )
        return settle(setting, world)

    def _cut(self, num_tokens: int) -> list[range]:
        costs = self._measuring.costs if self.config.chunk_size == "auto" else []
        return cut(num_tokens, self.config.chunk_size, self._prefill_phase, costs)

    def _decode_job(self, seen: Sequence[Seen | None] = ()) -> DecodeJob:
        """`seen`: by the numbers of the sequences that tokens are selected for."""
        phase, rank = self._decode_phase, self.comm.rank
        return DecodeJob(
            self.stage,
            self.comm,
            phase.places[rank],
            phase.spans[rank],
            self._decode_shard,
            partial(self._select, seen),
        )

    def _select(self, seen: Sequence[Seen | None], sequences: Sequence[Growing], hidden: torch.Tensor) -> torch.Tensor:
        adjusts = [seen[one.number] for one in sequences]
        streams, steps = [one.stream for one in sequences], [one.taken for one in sequences]
        with timed("select", sequences=len(sequences)):
            tokens = self._selection.select(self.stage, hidden, self._links.selecting, streams, steps, adjusts)
        if int(tokens.max()) >= NOT_FINITE:
            error = not_finite(self._loader, sequences, self._links.selecting)
            if self.mesh.dp > 1 and self.comm.is_first:  # other replicas would go on, and then wait for these ranks
                abort_with(error)
            raise error
        return tokens

    def _mark(self, name: str) -> None:
        if self.stage.device.type == "cuda":
            torch.cuda.synchronize(self.stage.device)
        self.clock.mark(name)
        log.info("%s at %.3f s", name, self.clock.moments[name])


def _part_of(phase: Phase, rank: int) -> dict[str, list[int]]:
    span, heads = phase.spans[rank], phase.regions[rank].heads
    return {"layers": [span.start, span.stop], "kv_heads": [heads.start, heads.stop]}
