"""A seed repeats an answer of a real model, on any number of ranks."""

import json
from typing import Any

import smollm2
from mpirun import mpi_spp, mpirun, run

NEW_TOKENS = 30


def answer(num_ranks: int, *arguments: str) -> dict[str, Any]:
    """The JSON of a run in float32: its logits hardly depend on the number of ranks."""
    settings = ["--dtype", "float32", "--threads", "1", "--max-new-tokens", str(NEW_TOKENS), "--chunk-size", "8"]
    prompt = ["--model", str(smollm2.directory()), "--prompt", "Write a short story about the sea."]
    ended = run(mpirun(num_ranks, mpi_spp("generate", *prompt, *settings, "--json", "-", *arguments)))
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert f"--seed {told['configuration']['seed']}" in ended.stderr
    return told


def test_any_number_of_ranks_gives_the_same_text() -> None:
    answers = [answer(num_ranks, "--temperature", "0.8", "--seed", "1")["text"] for num_ranks in (1, 2, 3)]
    assert answers == answers[:1] * 3


def test_a_drawn_seed_is_told_and_repeats_the_answer() -> None:
    """One seed for all ranks, drawn by rank 0."""
    options = ["--temperature", "1.2", "--top-k", "500", "--top-p", "0.98"]
    first = answer(2, *options)
    chosen = first["configuration"]
    assert (chosen["temperature"], chosen["top_k"], chosen["top_p"]) == (1.2, 500, 0.98)
    assert answer(3, *options, "--seed", str(chosen["seed"]))["token_ids"] == first["token_ids"]
