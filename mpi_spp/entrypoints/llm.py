"""The face for Python: a model over the ranks of a job, and what it answers. Every rank runs the same script.

`mpi-spp launch -np 3 -- run script.py`; without a launcher there is one rank. See docs/python.md.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mpi_spp.batch.encoder import Encoder
from mpi_spp.batch.lines import parse_line
from mpi_spp.config import RunConfig
from mpi_spp.engine.teams import teams_of
from mpi_spp.entrypoints.opening import find_model, join, make_engine, read_model
from mpi_spp.errors import UserError
from mpi_spp.parallel.mesh import require_one_replica
from mpi_spp.request import DRAWS, PENALTY_RANGES, Draws, Request, new_seed
from mpi_spp.system.timings import Clock
from mpi_spp.system.units import parse_limit

# What an answer is asked for, and what a command reads or writes: none of these is an option of a model.
_NO_OPTIONS = {"prompt", "prompt_file", "prompt_ids", "document", "questions", "negative_prompt", "guidance_scale"}
_NO_OPTIONS |= {"num_return_sequences", "max_new_tokens", "ignore_eos", "json", "trace", "trace_messages"}
_NO_OPTIONS |= {*DRAWS, *PENALTY_RANGES}

# What all ranks must have alike, lest one waits for what no other sends.
_OF_ALL_RANKS: tuple[str, ...] = ("mesh", "prefill", "decode", "chunk_size", "layer_split", "context_split")
_OF_ALL_RANKS += ("sync_strategy", "sync_granularity", "dtype", "kv_cache_dtype", "quantize", "quantize_group_size")
_calls = itertools.count(1)  # of this process

Prompt = str | Sequence[int] | Sequence[dict[str, Any]]  # a text, token ids, or the messages of a chat


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the tokens of answers are chosen, and where they end. Names and meanings are vLLM's; greedy by default.

    Raises UserError for a value that cannot work.
    """

    max_tokens: int = 100
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    seed: int | None = None  # None: one is drawn when it is needed
    repetition_penalty: float | None = None  # None: as the model's generation_config.json says
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require_types(SamplingParams, vars(self))
        parse_line({"prompt_ids": [0], **self.asked})
        _config(model="", **{name: getattr(self, name) for name in DRAWS})

    @property
    def asked(self) -> dict[str, Any]:
        """What a prompt is asked with, as a line of a batch has it; the seed is for all prompts of a call."""
        names = ("max_tokens", "ignore_eos", *PENALTY_RANGES)
        return {name: getattr(self, name) for name in names}

    def draws(self, seed: int) -> Draws:
        """How tokens are drawn; with this seed where none is given."""
        return Draws(self.temperature, self.top_k, self.top_p, seed if self.seed is None else self.seed)


@dataclass(frozen=True)
class Completion:
    """An answer. `text` is None where the model has no tokenizer; `finish_reason` is "stop" or "length"."""

    text: str | None
    token_ids: list[int]
    finish_reason: str
    prompt_token_ids: list[int]


Params = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """A model over all ranks of the job. All ranks make one and call the same methods in the same order.

    The prompts of rank 0 count: what other ranks pass is not read. Errors are raised on all ranks.
    """

    def __init__(self, model: str, *, max_num_seqs: int = 8, max_prompt_tokens: int = 1024, **options: Any) -> None:
        """`model`: a name from `mpi-spp model list`, a folder, or a repository of the hub. Collective.

        `max_num_seqs`: prompts that are answered at once. `max_prompt_tokens`: the length to expect, by which "auto"
        chooses; longer prompts work. `options`: those of the command line that are about the model and the ranks, such
        as `prefill="tensor"` for `--prefill tensor`. Raises UserError for a value, TypeError for a name that is none.
        """
        known = {field.name for field in fields(RunConfig)} - _NO_OPTIONS - {"model"}
        for name in options.keys() - known:
            hint = "it belongs to SamplingParams" if hasattr(SamplingParams, name) else "see docs/python.md"
            raise TypeError(f"LLM has no option {name!r}; {hint}")
        for name, value in (("max_num_seqs", max_num_seqs), ("max_prompt_tokens", max_prompt_tokens)):
            if type(value) is not int or value < 1:
                raise UserError(f"{name}: {value!r} is no number from 1 up; give one")
        config = _config(model=model, **options)
        self._world, self._most, self._clock = join(config), max_num_seqs, Clock()
        self._begins("LLM()")
        alike = {name: getattr(config, name) for name in _OF_ALL_RANKS}
        _require_alike(
            self._world.gather(alike | {"max_num_seqs": max_num_seqs, "max_prompt_tokens": max_prompt_tokens})
        )
        for team in teams_of(config, self._world.size):
            require_one_replica(team.mesh)
        directory = find_model(config, self._world)
        shape = self._world.on_rank_0(lambda: read_model(directory))
        self._encoder = self._on_rank_0_alone(lambda: Encoder(config, shape, directory))
        self._engine = make_engine(config, shape, directory, self._world, self._clock, max_prompt_tokens)

    @property
    def rank(self) -> int:
        """This process among all of the job: let rank 0 speak."""
        return self._world.rank

    @property
    def num_ranks(self) -> int:
        """All processes of the job."""
        return self._world.size

    def generate(self, prompts: Prompt | Sequence[Prompt], params: Params = None) -> list[Completion]:
        """Answer one prompt or several, in order; the same on all ranks. Collective.

        `params`: one for all prompts, or a list with one for each. A text becomes a chat where the model has a chat
        template; `LLM(..., chat=False)` takes it as it is.
        """
        self._begins("generate()")
        requests = self._requests(prompts, params)
        answers: list[list[int]] = [[] for _ in requests]
        for number, token in self._engine.generate_batch(requests, most=self._most):
            answers[number].append(token)
        return self._world.on_rank_0(lambda: list(map(self._completion, requests, answers)))

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the answer's text as it is made: whole characters on rank 0, empty texts on the others. Collective.

        All ranks must take as much of it.
        """
        self._begins("stream()")
        (request,) = self._requests([prompt], params)
        text = self._encoder.stream() if self._encoder is not None else None
        for _, token in self._engine.generate_batch([request]):
            yield "" if text is None else text.push(token)
        yield "" if text is None else text.rest()

    def _begins(self, call: str) -> None:
        """Say where this rank is, should others be elsewhere."""
        self._world.doing = f"{call}, call {next(_calls)} of an LLM"

    def _requests(self, prompts: Prompt | Sequence[Prompt], given: Params) -> list[Request]:
        """What the engine is asked, by rank 0's prompts and parameters."""

        def read() -> list[Request]:
            assert self._encoder is not None
            asked, seed, requests = _one_by_one(prompts), new_seed(), []
            for number, (one, params) in enumerate(zip(asked, _for_each(given, len(asked)), strict=True), start=1):
                request = self._encoder.request(parse_line({**_fields_of(one), **params.asked}), stream=number)
                requests.append(replace(request, draws=params.draws(seed)))
            return requests

        return self._world.on_rank_0(read)

    def _completion(self, request: Request, token_ids: list[int]) -> Completion:
        assert self._encoder is not None
        reason = "stop" if token_ids[-1] in request.stop_ids else "length"
        return Completion(self._encoder.text(token_ids), token_ids, reason, request.prompt_ids)

    def _on_rank_0_alone(self, make: Callable[[], Encoder]) -> Encoder | None:
        """What rank 0 keeps for itself; None on the others, which learn of an error. Collective."""
        made: list[Encoder | None] = [None]

        def work() -> None:
            made[0] = make()

        self._world.on_rank_0(work)
        return made[0]


def _require_alike(of_ranks: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError where a rank has another value than rank 0."""
    first = of_ranks[0]
    for rank, other in enumerate(of_ranks):
        for name in (name for name, value in other.items() if value != first[name]):
            told = f"{first[name]!r} on rank 0, and {other[name]!r} on rank {rank}"
            raise UserError(f"{name}: {told}; all ranks must give the same", agreed=True)


def _config(**options: Any) -> RunConfig:
    """With an error that names options as Python does. A limit of memory may be a text, as on the command line."""
    if isinstance(limit := options.get("max_memory"), str):
        options["max_memory"] = parse_limit(limit, "max_memory")
    _require_types(RunConfig, options)
    try:
        return RunConfig(**options)
    except UserError as error:
        names = {field.name.replace("_", "-"): field.name for field in fields(RunConfig)}
        named = re.sub(r"--([a-z-]+)", lambda found: names.get(found[1], found[0]), str(error))
        raise UserError(named) from None


def _require_types(of: type, given: Mapping[str, Any]) -> None:
    """Raise UserError for the first value whose type is not that of its field."""
    kinds = get_type_hints(of)
    for name, value in given.items():
        if not _is(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", str(kinds[name]))
            raise UserError(f"{name}: {value!r} is of type {type(value).__name__}, but {name} of {kind}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as annotations have them; true and false are no numbers."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _one_by_one(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """Several prompts, or the one as several. Token ids and messages are sequences themselves."""
    if isinstance(prompts, (list, tuple)) and not (prompts and isinstance(prompts[0], (int, dict))):
        return prompts
    return [prompts]  # type: ignore[list-item]


def _for_each(given: Params, count: int) -> Sequence[SamplingParams]:
    """The parameters of each of so many prompts."""
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * count
    if not isinstance(given, (list, tuple)):
        raise UserError(f"params: {type(given).__name__} is no SamplingParams; give one for all prompts, or a list")
    params: Sequence[SamplingParams] = given
    if len(params) != count:
        raise UserError(f"params: {len(params)} for {count} prompts; give one for each, or one for all")
    for one in params:
        if not isinstance(one, SamplingParams):
            raise UserError(f"params: {type(one).__name__} is no SamplingParams; give one for each prompt")
    return params


def _fields_of(prompt: Prompt) -> dict[str, Any]:
    """As a line of a batch has them."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not isinstance(prompt, (list, tuple)):
        kind = type(prompt).__name__
        raise UserError(f"prompts: {kind} is no prompt; give a text, a list of token ids, or a list of messages")
    if prompt and isinstance(prompt[0], dict):
        return {"messages": list(prompt)}
    return {"prompt_ids": list(prompt)}
