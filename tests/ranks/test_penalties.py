"""A repetition penalty on any number of ranks and in any decode: the tokens of transformers."""

from pathlib import Path

import penalized_reference
import pytest
import reference_models
from engines import config_of, engine_of

from mpi_spp.comm.world import World
from mpi_spp.engine.fan_out import fan_out
from mpi_spp.engine.guidance import Guidance
from mpi_spp.request import NO_PENALTIES, Penalties, Request
from mpi_spp.system.timings import Clock

PENALTIES = Penalties(repetition_penalty=penalized_reference.PENALTY)
NEW_TOKENS = reference_models.NEW_TOKENS

pytestmark = pytest.mark.ranks(1, 3)


@pytest.mark.ranks(3, 7)
def test_every_decode_penalises_alike(models: Path, world: World) -> None:
    """Beside a sequence without a penalty, which none of it reaches."""
    name, _ = penalized_reference.WAYS["plain"]
    prompt, _, expected = penalized_reference.clear_case("plain")
    engine = engine_of(config_of(models / name, chunk_size=7), world)
    free = list(engine.generate(prompt, frozenset(), NEW_TOKENS))
    assert free != expected, "the penalty changes nothing here"
    requests = [Request(prompt, frozenset(), NEW_TOKENS, penalties=one) for one in (PENALTIES, NO_PENALTIES)]
    for decode in ("replicated", "tensor", "pipeline", "context"):
        engine.configure(config_of(models / name, chunk_size=7, decode=decode), Clock())
        tokens: list[list[int]] = [[], []]
        for number, token in engine.generate_batch(requests):
            tokens[number].append(token)
        assert world.gather(tokens) == [[expected, free]] * world.size, decode


def test_answers_made_alone_and_with_guidance(models: Path, world: World) -> None:
    name, _ = penalized_reference.WAYS["plain"]
    prompt, _, expected = penalized_reference.clear_case("plain")
    config = config_of(models / name, chunk_size=7)
    engine = engine_of(config, world, alone=True)
    requests = [Request(prompt, frozenset(), NEW_TOKENS, number, PENALTIES) for number in range(3)]
    assert fan_out(engine, requests, lambda number, token: None).tokens == [expected] * 3
    name, scale = penalized_reference.WAYS["guided"]
    prompt, negative, expected = penalized_reference.clear_case("guided")
    guidance = Guidance(engine_of(config_of(models / name, chunk_size=7, guidance_scale=scale), world), negative)
    assert list(guidance.generate(prompt, frozenset(), NEW_TOKENS, PENALTIES)) == expected
