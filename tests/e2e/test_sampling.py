"""A seed repeats an answer of a real model, on any number of ranks."""

import json
from typing import Any

import smollm2
from console import ALL_START, Ranks, Starts

NEW_TOKENS = 12


def answer(ranks: Ranks, *arguments: str) -> dict[str, Any]:
    """The JSON of a run in float32: its logits hardly depend on the number of ranks."""
    settings = ["--dtype", "float32", "--threads", "1", "--max-new-tokens", str(NEW_TOKENS), "--chunk-size", "8"]
    prompt = ["--model", str(smollm2.directory()), "--prompt", "Write a short story about the sea."]
    ended = ranks.run("generate", *prompt, *settings, "--json", "-", *arguments)
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert f"--seed {told['configuration']['seed']}" in ended.stderr
    return told


def test_any_number_of_ranks_gives_the_same_text(console: Ranks, alone: Ranks) -> None:
    counts = [alone, console, *([Starts(2)] if ALL_START else [])]
    answers = [answer(ranks, "--temperature", "0.8", "--seed", "1")["text"] for ranks in counts]
    assert answers == answers[:1] * len(counts)


def test_a_drawn_seed_is_told_and_repeats_the_answer(console: Ranks, alone: Ranks) -> None:
    """One seed for all ranks, drawn by rank 0."""
    options = ["--temperature", "1.2", "--top-k", "500", "--top-p", "0.98"]
    first = answer(console, *options)
    chosen = first["configuration"]
    assert (chosen["temperature"], chosen["top_k"], chosen["top_p"]) == (1.2, 500, 0.98)
    assert answer(alone, *options, "--seed", str(chosen["seed"]))["token_ids"] == first["token_ids"]
