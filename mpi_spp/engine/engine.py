"""Load, prefill, sync, decode: prompts in, a stream of tokens out, the same on every rank of a replica."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine import facts
from mpi_spp.engine.caches import Caches
from mpi_spp.engine.communicators import Communicators
from mpi_spp.engine.diagnosis import Diagnosis, Fail
from mpi_spp.engine.loading import Loader
from mpi_spp.engine.loop import Loop
from mpi_spp.engine.measuring import Measuring
from mpi_spp.engine.prefilling import Prefilled, Prefilling
from mpi_spp.engine.scheduler import Scheduler
from mpi_spp.engine.source import InOrder
from mpi_spp.engine.teams import teams_of
from mpi_spp.errors import UserError
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel.chunks import cut as cut_prompt
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import split_chunks
from mpi_spp.parallel.phase import needed
from mpi_spp.request import NO_PENALTIES, Penalties, Request
from mpi_spp.strategies.assignment import Strategies, load_strategies, plan_phases
from mpi_spp.strategies.decode._job import DecodeJob, Decoding, Selected, SequenceState
from mpi_spp.strategies.prefill._job import PrefillJob
from mpi_spp.strategies.sampling.penalties import seen_of
from mpi_spp.strategies.sampling.selection import select_by_draws, with_seed
from mpi_spp.system.limits import require_threads
from mpi_spp.system.memory import resident_bytes
from mpi_spp.system.timed import timed
from mpi_spp.system.timings import Clock

# A configuration for a mesh, measured figures of its ranks, the prompts' tokens and the program's bytes -> one without
# "auto", and what was chosen and why.
Resolve = Callable[[RunConfig, Mesh, Measuring, int, int], tuple[RunConfig, dict[str, Any] | None]]

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
        resolve: Resolve | None = None,
    ) -> None:
        """`prompt_tokens`: the prompts to expect, by which strategies are chosen where they are "auto".

        `alone`: after a prefill by all, each rank decodes sequences of its own, with the whole vocabulary.
        `resolve`: puts strategies in the place of "auto" (forecast/resolve.py); without it the configuration has none.
        """
        self.model, self.world, self._prompt_tokens, self._alone = model, world, prompt_tokens, alone
        self._resolve = resolve
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
        self._links = Communicators(world, team.ranks, device, *how)
        self.comm, self.kv_comm = self._links.replica, self._links.kv
        self._measuring = Measuring(self._loader, self.comm, world)
        # Of several replicas the others would go on, and then wait for these ranks.
        self._diagnosis = Diagnosis(self._loader, self._links.selecting, self.mesh.dp > 1 and self.comm.is_first)
        self._held: Any = None
        self._experts: dict[str, list[int]] | None = None  # of the last prefill
        self.configure(config, clock)

    def configure(self, config: RunConfig, clock: Clock) -> None:
        """Take the strategies, schedule and granularity of another run of the same model, and its clock. Collective."""
        if self._alone and config.decode == "auto":
            config = replace(config, decode="replicated")
        what = (self.mesh, self._measuring, self._prompt_tokens, self._program_bytes)
        config, self.choice = self._resolve(config, *what) if self._resolve else (config, None)
        self._strategies: Strategies = load_strategies(config, self.mesh, self._alone)
        if self._strategies.shares_memory and self._loader.device.type != "cpu":
            raise UserError("--sync-strategy: shared is for caches in the memory of hosts; choose another one for GPUs")
        self.config, self.clock = with_seed(config, self.world), clock
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
        return self._caches.target(capacity, self.cut(prompt_tokens or capacity))

    def generate(
        self, prompt_ids: list[int], stop_ids: frozenset[int], max_new_tokens: int, penalties: Penalties = NO_PENALTIES
    ) -> Iterator[int]:
        """Yield the answer's token ids, the stop token included, on every rank. Collective."""
        for _, token in self.generate_batch([Request(prompt_ids, stop_ids, max_new_tokens, penalties=penalties)]):
            yield token

    def generate_batch(
        self,
        requests: Iterable[Request],
        between: Callable[[], object] = lambda: None,
        fail: Fail | None = None,
        most: int | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Yield a request's number with its next token, on every rank: see `Loop`. `most` at once; None: all."""
        return Loop(self, InOrder(requests), Scheduler(most, together=self.config.is_guided), between, fail).tokens()

    def decode(
        self,
        requests: Sequence[Request],
        caches: Sequence[KVCache],
        hidden: torch.Tensor,
        fail: Fail | None = None,
    ) -> Iterator[tuple[int, int]]:
        """The same after the prefills. `hidden`: the last tokens' hidden states [requests, hidden_size].

        `fail` is told, on every rank, of a request whose scores are no numbers though all weights are: it ends there,
        and the others go on. Without it that ends the run, as weights that are no numbers always do.
        """
        decoding = self.new_decoding()
        states = [self.state_of(*one) for one in zip(range(len(requests)), requests, caches, strict=True)]
        given = decoding.admit(states, hidden)
        while given[0]:
            yield from self.taken(given, fail)
            given = decoding.step()

    def new_decoding(self) -> Decoding:
        """The sequences of a call that are decoded, of which there are none yet."""
        decoding: Decoding = self._strategies.decode.decode(self._decode_job())
        return decoding

    @property
    def shares_memory(self) -> bool:
        """Whether the ranks of a host keep one cache, whose memory is given back when all sequences are done."""
        return self._strategies.shares_memory

    def free_shared(self) -> None:
        """Give memory back that ranks have shared. Collective."""
        self._links.shared.free()

    def state_of(self, number: int, request: Request, cache: KVCache) -> SequenceState:
        """A request under way, after its prefill."""
        return SequenceState(number, request, cache, seen_of(request, self.stage.vocabulary, self.stage.device))

    def taken(self, given: Selected, fail: Fail | None) -> Iterator[tuple[int, int]]:
        """The requests' numbers with their tokens, which count from here on."""
        sequences, tokens = given
        self.clock.mark("decode_end" if sequences[0].taken else "first_token")
        self._diagnosis.end_without_token(sequences, tokens, fail)
        for sequence, token in zip(sequences, tokens.tolist(), strict=True):
            if not sequence.finished:
                sequence.take(token)
                yield sequence.number, token

    def prefill(self, prompt_ids: list[int], cache: KVCache) -> torch.Tensor:
        """Fill this rank's part of the cache; returns the last token's hidden state [1, hidden_size], on every rank."""
        prefilling = self.new_prefilling()
        prefilling.add(None, prompt_ids, self.cut(len(prompt_ids)), cache)
        (done,) = prefilling.advance()
        self.note(done)
        return done.hidden

    def new_prefilling(self) -> Prefilling:
        """The prompts of a call, of which there are none yet."""
        phase, rank, shard = self._prefill_phase, self.comm.rank, self._prefill_shard
        place, layers, exchange = phase.places[rank], phase.spans[rank], self._caches.new_exchange()
        job = PrefillJob(self.stage, self.comm, place, layers, shard, self._prefill_parts, exchange)
        compute, shows = self._strategies.prefill.prefill, self.world.rank == 0
        return Prefilling(job, compute, self._caches, self._plan, self.clock, shows)

    def note(self, done: Prefilled) -> None:
        """Keep of the last prefill what reports tell."""
        self.chunks = done.prompt.chunks
        experts = self.model.experts
        self._experts = None if experts is None else self.stage.load.by_expert(experts.count)
        self.clock.moments |= done.moments

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
        return {
            **facts.of_machine(self.world, self._loader, self.threads),
            **facts.of_part(self._plan, self._links, self.stage, self._caches),
            "program_bytes": self._program_bytes,  # resident before anything of the model was read
            "experts": self._experts,
            "moments": self.clock.moments,
        }

    @property
    def warnings(self) -> list[str]:
        """What makes this rank's part slower or larger, or the model another one, than a user may expect."""
        return facts.warnings(self.world, self._loader, self.threads)

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

    def cut(self, num_tokens: int) -> list[range]:
        """The chunks of a prompt of so many tokens."""
        costs = self._measuring.costs if self.config.chunk_size == "auto" else []
        return cut_prompt(num_tokens, self.config.chunk_size, self._prefill_phase, costs)

    def _decode_job(self) -> DecodeJob:
        phase, rank = self._decode_phase, self.comm.rank
        place, layers = phase.places[rank], phase.spans[rank]
        return DecodeJob(self.stage, self.comm, place, layers, self._decode_shard, self._select)

    def _select(self, sequences: Sequence[SequenceState], hidden: torch.Tensor) -> torch.Tensor:
        default, scale = self.config.draws, self.config.guidance_scale
        draws = [one.request.draws or default for one in sequences]
        streams, steps = [one.request.stream for one in sequences], [one.taken for one in sequences]
        with timed("select", sequences=len(sequences)):
            who = (streams, steps, [one.seen for one in sequences])
            return select_by_draws(self.stage, hidden, self._links.selecting, draws, scale, *who)
