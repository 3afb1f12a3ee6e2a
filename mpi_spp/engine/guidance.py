"""A guided answer: the prompt's sequence and the one that it is steered away from; see `strategies/sampling/guided.py`.

Of several ranks one half makes the one and the other half the other, each with a prefill, sync and decode among its own
ranks; a single rank makes both in one batch. For every token all ranks meet.
"""

from collections.abc import Iterator
from typing import Any

from mpi_spp.engine.engine import Engine
from mpi_spp.engine.teams import teams_of
from mpi_spp.request import NO_PENALTIES, Penalties, Request

_NAMES = ("conditional", "unconditional")


class Guidance:
    """One answer by an engine whose configuration has a guidance scale.

    `prefills` tells, when the answer is made, of each sequence that this rank had: its name, its prompt's tokens and
    chunks, and seconds.
    """

    def __init__(self, engine: Engine, negative_ids: list[int]) -> None:
        """`negative_ids`: what the answer is steered away from, at least one token."""
        self._engine, self._negative_ids = engine, negative_ids
        rank, teams = engine.world.rank, teams_of(engine.config, engine.world.size)
        self._numbers = [0, 1] if len(teams) == 1 else [number for number in (0, 1) if rank in teams[number].ranks]
        self.prefills: list[dict[str, Any]] = []

    def generate(
        self, prompt_ids: list[int], stop_ids: frozenset[int], max_new_tokens: int, penalties: Penalties = NO_PENALTIES
    ) -> Iterator[int]:
        """As `Engine.generate`: yield the answer's token ids on every rank. Collective."""
        prompts = (prompt_ids, self._negative_ids)
        requests = [
            Request(prompts[number], stop_ids, max_new_tokens, penalties=penalties, penalized_ids=prompt_ids)
            for number in self._numbers
        ]
        starts: list[float] = []

        def note() -> None:
            """Of the prefill that has just ended; those of a rank are one in the run's timings."""
            moments, number = self._engine.clock.moments, self._numbers[len(starts)]
            starts.append(moments["prefill_start"])
            self.prefills.append(
                {
                    "sequence": _NAMES[number],
                    "prompt_tokens": len(prompts[number]),
                    "chunks": self._engine.schedule()["chunks"],
                    "prefill_s": moments["prefill_end"] - moments["prefill_start"],
                    "sync_exposed_s": moments["sync_end"] - moments["prefill_end"],
                }
            )
            moments["prefill_start"] = starts[0]

        for number, token in self._engine.generate_batch(requests, note):
            if number == 0:  # the other one's are the same
                yield token
