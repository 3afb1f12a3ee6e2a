"""`generate --guidance-scale`, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
import reciting_model
import smollm2
from console import Ranks

GUIDED = ("--guidance-scale", "1.5")


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("models") / "reciting", max_position_embeddings=64)


def test_the_report_tells_what_each_half_did(reciting: Path, tmp_path: Path, console: Ranks) -> None:
    out = tmp_path / "out.json"
    options = ["--prompt", "hi", *GUIDED, "--negative-prompt", "low tide", "--chunk-size", "8", "--json", str(out)]
    ended = console.run("generate", "--model", str(reciting), *options)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == reciting_model.TEXT + "\n"
    assert "guidance scale 1.5" in ended.stderr and "unconditional" in ended.stderr
    told = json.loads(out.read_text())
    first, second = told["guidance"]
    assert (first["sequence"], first["ranks"]) == ("conditional", [0, 1])
    assert (second["sequence"], second["ranks"]) == ("unconditional", [2])
    assert first["prompt_tokens"] == told["prompt_tokens"] == sum(told["chunks"])
    assert second["prompt_tokens"] == first["prompt_tokens"] + len("low tide") - len("hi")  # a token for each byte
    assert all(one["prefill_s"] > 0 for one in told["guidance"])
    assert told["timings"]["prefill_s"] == first["prefill_s"]
    assert [rank["prefill_layers"] for rank in told["ranks"]] == [[0, 3], [3, 5], [0, 5]]
    slices = [rank["vocabulary"] for rank in told["ranks"]]
    assert slices[0][1] == slices[1][0] and slices[1][1] == slices[2][0]


def sampled(ranks: Ranks, *arguments: str) -> dict[str, Any]:
    settings = ["--dtype", "float32", "--threads", "1", "--max-new-tokens", "8", "--chunk-size", "8"]
    settings += ["--temperature", "0.8", "--seed", "1", "--json", "-"]
    prompt = ["--model", str(smollm2.directory()), "--prompt", "Write a short story about the sea."]
    ended = ranks.run("generate", *prompt, *settings, *arguments)
    assert ended.status == 0, ended.stderr
    return json.loads(ended.stdout)


def test_any_number_of_ranks_gives_the_same_text(console: Ranks, alone: Ranks) -> None:
    """And a scale of 1 makes no second sequence."""
    guided = [*GUIDED, "--negative-prompt", "Write a poem about mountains."]
    answers = [sampled(ranks, *guided)["text"] for ranks in (alone, console)]
    assert answers[0] == answers[1]
    off = sampled(console, "--guidance-scale", "1")
    assert off["guidance"] is None
    assert off["text"] != answers[0]


@pytest.mark.parametrize(
    "says, arguments",
    [
        ("--negative-prompt: no meaning without guidance", ["--negative-prompt", "low"]),
        ("--negative-prompt: the prompt is empty", [*GUIDED, "--negative-prompt", " "]),
        ("the negative prompt has", [*GUIDED, "--negative-prompt", "x" * 64]),
        ("--mesh: pp=3 is for one sequence of a guidance pair, so it needs 6 ranks", [*GUIDED, "--mesh", "pp=3"]),
        ("--layer-split: 3,2 is for 2 stages, not 1", [*GUIDED, "--layer-split", "3,2"]),
        ("--sync-strategy: none cannot bring", [*GUIDED, "--sync-strategy", "none"]),
    ],
)
def test_bad_input(says: str, arguments: list[str], reciting: Path, console: Ranks) -> None:
    """One line from one rank, though some of it concerns one half only."""
    ended = console.run("generate", "--model", str(reciting), "--prompt", "hi", *arguments)
    assert (ended.status, len(ended.error_lines), ended.stdout) == (2, 1, ""), ended.stderr
    assert ended.error_lines[0].startswith("mpi-spp: error: ") and says in ended.error_lines[0]
