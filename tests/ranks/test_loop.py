"""Requests that come while others are answered, and one that nobody wants: each has the tokens it gets alone."""

from collections import defaultdict
from pathlib import Path

import engines
import pytest
from reference_models import prompt_of, reference_tokens

from mpi_spp.comm.world import World
from mpi_spp.engine.loop import Loop
from mpi_spp.engine.scheduler import Scheduler
from mpi_spp.engine.source import Arrived
from mpi_spp.request import Request

NAME, NEW_TOKENS = "llama_tied", 6
PAIRS = [("pipeline", "replicated"), ("tensor", "tensor"), ("pipeline", "pipeline"), ("ring", "context")]
LENGTHS = (37, 1, 71, 37, 71)
MOST, GONE, LATE = 5, 2, 3  # at once; the number of the one that is dropped, and of the first that come later

pytestmark = pytest.mark.ranks(1, 3)


class Visitors:
    """A source: some requests at once, the others at the fourth step, and one of them is dropped at some step."""

    def __init__(self, requests: list[Request], drops_at: int) -> None:
        self._requests, self._drops_at, self._steps = requests, drops_at, 0
        self.rooms = list[int | None]()

    def take(self, room: int | None, is_idle: bool) -> Arrived | None:
        self._steps += 1
        self.rooms.append(room)
        if self._steps > max(4, self._drops_at) and is_idle:
            return None
        new = {1: self._requests[:LATE], 4: self._requests[LATE:]}.get(self._steps, [])
        return Arrived(new, [GONE] if self._steps == self._drops_at else [])


@pytest.mark.parametrize("ticks", [None, 1, 2])
@pytest.mark.parametrize("prefill, decode", PAIRS)
def test_who_comes_and_who_goes(models: Path, world: World, prefill: str, decode: str, ticks: int | None) -> None:
    config = engines.config_of(models / NAME, prefill=prefill, decode=decode, chunk_size=16, dtype="float32")
    engine = engines.engine_of(config, world)
    requests = [Request(prompt_of(NAME, length), frozenset(), NEW_TOKENS) for length in LENGTHS]
    for drops_at in range(2, 8):  # while it is prefilled, while others join, between two stages
        source, answers = Visitors(requests, drops_at), defaultdict[int, list[int]](list)
        for number, token in Loop(engine, source, Scheduler(MOST, ticks)).tokens():
            answers[number].append(token)
        assert source.rooms[-1] == MOST, "nobody who has gone takes a place"
        for number, length in enumerate(LENGTHS):
            expected = reference_tokens(models, NAME, length)[:NEW_TOKENS]
            assert answers[number] == (expected[: len(answers[number])] if number == GONE else expected)
