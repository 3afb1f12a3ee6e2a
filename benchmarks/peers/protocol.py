"""What is asked of a peer's process, and how its requests are timed. Needs nothing but Python."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Generate = Callable[[list[int], Callable[[], None]], object]


@dataclass(frozen=True)
class Job:
    """One measurement of one variant of a peer; lengths in tokens.

    model: a Hugging Face directory. work: where the peer may keep what it converts. warmup, repetitions: requests.
    """

    model: str
    work: str
    vocab_size: int
    prompt_tokens: int
    new_tokens: int
    threads: int
    warmup: int
    repetitions: int
    variant: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def prompt_ids(self, number: int) -> list[int]:
        """Token ids without a pattern, others for every request, so that no cache of prompts can help."""
        generator = random.Random(number)
        return [generator.randrange(self.vocab_size) for _ in range(self.prompt_tokens)]


def measure(job: Job, generate: Generate) -> dict[str, list[float]]:
    """Tokens per second of prefill and decode for every request that counts.

    generate(prompt_ids, first): calls `first` when the first new token is known and returns when the last one is.
    Prefill is the prompt over the time to the first token, decode the later tokens over the time from there.
    """
    speeds: dict[str, list[float]] = {"prefill_tokens_per_s": [], "decode_tokens_per_s": []}
    for number in range(job.warmup + job.repetitions):
        start, first, last = _moments(generate, job.prompt_ids(number))
        if number >= job.warmup:
            speeds["prefill_tokens_per_s"].append(job.prompt_tokens / (first - start))
            speeds["decode_tokens_per_s"].append((job.new_tokens - 1) / (last - first))
    return speeds


def _moments(generate: Generate, prompt_ids: list[int]) -> list[float]:
    """The times of the start, of the first token and of the last."""
    moments = [time.perf_counter()]

    def mark() -> None:
        moments.append(time.perf_counter())

    generate(prompt_ids, mark)
    mark()
    return moments
