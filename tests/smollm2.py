"""The default model, and the tokens that transformers makes of a real text of 600 tokens."""

import hashlib
import json
from pathlib import Path

import reference_models

NAME = "smollm2-135m-instruct"
PROMPT_TOKENS, NEW_TOKENS = 600, 64
TEXT = Path(__file__).parent / "data" / "lighthouse.txt"


def directory() -> Path:
    """The model's directory; it is fetched when it is not there."""
    from mpi_spp.model.store import get

    return get(NAME)


def prompt_ids() -> list[int]:
    """The first 600 tokens of the text."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory())(TEXT.read_text(encoding="utf-8"))["input_ids"][:PROMPT_TOKENS]


def reference() -> dict[str, list[int]]:
    """The prompt's ids and the greedy float32 tokens of transformers, computed once."""
    import transformers

    from mpi_spp.model.store import cache_directory

    key = hashlib.sha256(Path(__file__).read_bytes() + TEXT.read_bytes() + transformers.__version__.encode())
    path = cache_directory() / "tests" / f"smollm2-{key.hexdigest()[:12]}.json"
    if not path.exists():
        ids = prompt_ids()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt_ids": ids, "token_ids": _greedy(ids)}))
    return json.loads(path.read_text())


def _greedy(ids: list[int]) -> list[int]:
    tokens, smallest_gap = reference_models.greedy(directory(), ids, NEW_TOKENS)
    assert smallest_gap > reference_models.SMALLEST_GAP, "two logits are too near to test for equal tokens"
    return tokens
