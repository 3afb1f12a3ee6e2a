"""The default model, and the tokens that transformers makes of a real text of 600 tokens."""

from pathlib import Path

import oracles

NAME = "smollm2-135m-instruct"
PROMPT_TOKENS, NEW_TOKENS = 600, 64
TEXT = Path(__file__).parent / "data" / "lighthouse.txt"


def directory() -> Path:
    """The model's directory; it is fetched when it is not there."""
    from mpi_spp.model.loading.hub import get

    return get(NAME)


def prompt_ids() -> list[int]:
    """The first 600 tokens of the text."""
    return reference()["prompt_ids"]


def reference() -> dict[str, list[int]]:
    """The prompt's ids and the greedy float32 tokens of transformers."""
    return oracles.read("smollm2")
