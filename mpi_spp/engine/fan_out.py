"""Several sequences that begin alike: all ranks prefill what they share, then each rank goes on with its own, alone.

From the end of the prefill's sync until a rank has made its last token it sends and awaits no message. The sequences of
a rank follow one another in one cache: each starts again behind the shared positions and overwrites the one before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from mpi_spp.engine.diagnosis import Fail
from mpi_spp.engine.engine import Engine
from mpi_spp.errors import UserError
from mpi_spp.kv.cache import KVCache
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.request import Request


@dataclass(frozen=True)
class Prefix:
    """What all sequences begin with, on every rank: the first positions of a whole cache with room for any of them."""

    length: int
    cache: KVCache
    hidden: torch.Tensor  # of the last token, [1, hidden_size]


def shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with: at most the whole of the shortest."""
    first, last = min(prompts), max(prompts)  # what these two share, all between them do
    same = (one == other for one, other in zip(first, last, strict=False))
    return next((length for length, is_same in enumerate(same) if not is_same), min(len(first), len(last)))


def numbers_of(rank: int, num_ranks: int, num_requests: int) -> range:
    """Which requests a rank answers; there may be none for it."""
    return split_evenly(num_requests, num_ranks)[rank]


def prefill_prefix(engine: Engine, requests: Sequence[Request]) -> Prefix:
    """Run the tokens that all prompts begin with, at least one, through the ranks of the replica. Collective."""
    length = shared_length([one.prompt_ids for one in requests])
    cache = engine.new_cache(max(len(one.prompt_ids) + one.max_new_tokens for one in requests))
    return Prefix(length, cache, engine.prefill(requests[0].prompt_ids[:length], cache))


def decode_alone(
    engine: Engine,
    prefix: Prefix,
    requests: Sequence[Request],
    numbers: Iterable[int],
    fail: Fail | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield the number of a request with its next token, one request after another, on this rank alone.

    Each draws from a stream of its own, so tokens are the same on whatever rank. The engine must be made for it.
    `fail`: see `Engine.decode`.
    """
    for number in numbers:
        request, hidden = requests[number], prefix.hidden
        if len(request.prompt_ids) > prefix.length:
            hidden = engine.prefill_alone(request.prompt_ids, prefix.length, prefix.cache)
        # The engine knows of one request, its first.
        told = None if fail is None else partial(_pass_on, fail, number)
        for _, token in engine.decode([request], [prefix.cache], hidden, told):
            yield number, token


def _pass_on(fail: Fail, number: int, _: int, error: UserError) -> None:
    fail(number, error)


@dataclass(frozen=True)
class Answers:
    """The tokens of every request, in order. `errors`: why those of these numbers end early, or have none."""

    tokens: list[list[int]]
    errors: dict[int, str]


def fan_out(engine: Engine, requests: Sequence[Request], show: Callable[[int, int], None]) -> Answers:
    """Answer all requests; the same on all ranks. Collective.

    `show(number, token)` is called for the requests of this rank, as their tokens are made; rank 0 has the first ones.
    A request whose scores are no numbers ends there, and the others go on; weights that are none end the run.
    """
    world, prefix = engine.world, prefill_prefix(engine, requests)
    mine = numbers_of(world.rank, world.size, len(requests))
    answers: dict[int, list[int]] = {number: [] for number in mine}
    errors: dict[int, str] = {}

    def fail(number: int, error: UserError) -> None:
        errors[number] = str(error)

    for number, token in decode_alone(engine, prefix, requests, mine, fail):
        answers[number].append(token)
        show(number, token)
    engine.clock.mark("fan_out_end")
    world.agree()  # who is done sleeps until all are
    of_ranks = world.gather((list(answers.values()), errors))
    all_errors = {number: error for _, failed in of_ranks for number, error in failed.items()}
    return Answers([tokens for of_rank, _ in of_ranks for tokens in of_rank], all_errors)
