"""`mpi-spp batch` as a user runs it: the answers of one prompt alone, in order, on any mesh, resumed after a crash."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penalized_reference
import pytest
import reciting_model
import reference_models
from console import Ranks, lasting
from mpirun import Ended, end, finish, mpi_spp, mpirun, pid_of_rank, start
from reciting_model import TEXT

NAME = "llama_tied"
CHAT_TOKENS = len("<user\nhi<\n<assistant\n")  # a token for each byte and each special word
FIXED = ("--dtype", "float32", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("models") / "reciting", max_position_embeddings=20_000)


def write_lines(path: Path, lines: list[Any]) -> Path:
    """Text as it is, anything else as JSON."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def batch(model: Path, directory: Path, *arguments: str) -> list[str]:
    files = ["--input", str(directory / "in.jsonl"), "--output", str(directory / "out.jsonl")]
    return ["batch", "--model", str(model), *files, *FIXED, *arguments]


def answers(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "out.jsonl").read_text(encoding="utf-8").splitlines()]


MESHES = {
    "one rank": (1, ()),
    "dp=3": (3, ("--mesh", "dp=3")),
    "dp=2,tp=2": (4, ("--mesh", "dp=2,tp=2", "--prefill", "tensor", "--decode", "tensor")),
    "dp=2,pp=2": (4, ("--mesh", "dp=2,pp=2", "--decode", "pipeline", "--chunk-size", "7")),
}


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    """Four ranks, for meshes with two axes."""
    ranks = lasting(4)
    yield ranks
    ranks.close()


@pytest.mark.parametrize("mesh", MESHES)
def test_any_mesh_gives_the_tokens_of_transformers(
    mesh: str, tmp_path: Path, console: Ranks, alone: Ranks, four: Ranks
) -> None:
    """Answers of different lengths, more of them than fit at once."""
    num_ranks, options = MESHES[mesh]
    models = reference_models.build_reference_models()
    asked = [(length, most) for most in (12, 3, 7) for length in reference_models.PROMPT_LENGTHS]
    lines = [
        {"prompt_ids": reference_models.prompt_of(NAME, length), "max_new_tokens": most, "id": f"{length} {most}"}
        for length, most in asked
    ]
    write_lines(tmp_path / "in.jsonl", lines)
    command = batch(models / NAME, tmp_path, "--max-num-seqs", "2", "--json", str(tmp_path / "sum.json"), *options)
    ended = {1: alone, 3: console, 4: four}[num_ranks].run(*command)
    assert ended.status == 0, ended.stderr
    for number, ((length, most), answer) in enumerate(zip(asked, answers(tmp_path), strict=True), start=1):
        expected = reference_models.reference_tokens(models, NAME, length)[:most]
        assert answer == {
            "line": number,
            "id": f"{length} {most}",
            "text": None,
            "token_ids": expected,
            "prompt_tokens": length,
            "finish_reason": "length",
        }
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert (summary["answered"], summary["skipped"]) == (len(asked), 0)
    assert sum(summary["answers_by_replica"].values()) == len(asked) and len(summary["ranks"]) == num_ranks


def test_penalties_of_a_line_and_of_a_file(tmp_path: Path, console: Ranks) -> None:
    """One line has the penalty, the next has not; what a generation configuration says counts for all, and is told."""
    name, _ = penalized_reference.WAYS["plain"]
    prompt, _, expected = penalized_reference.clear_case("plain")
    model = reference_models.build_reference_models() / name
    new_tokens = ("--max-new-tokens", str(len(expected)))
    lines = [{"prompt_ids": prompt, "repetition_penalty": penalized_reference.PENALTY}, {"prompt_ids": prompt}]
    write_lines(tmp_path / "in.jsonl", lines)
    assert console.run(*batch(model, tmp_path, *new_tokens)).status == 0
    first, second = (answer["token_ids"] for answer in answers(tmp_path))
    assert first == expected != second
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({"repetition_penalty": penalized_reference.PENALTY, "temperature": 0.6}))
    (tmp_path / "ids.json").write_text(json.dumps(prompt))
    words = ["generate", "--model", str(model), "--prompt-ids", str(tmp_path / "ids.json"), *new_tokens, *FIXED]
    ended = console.run(*words, "--generation-config", str(tmp_path), "--json", "-")
    assert "repetition_penalty 1.3 counts; temperature 0.6 left to the command's options" in ended.stderr
    told = json.loads(ended.stdout)
    assert (told["token_ids"], told["repetition_penalty"]) == (expected, penalized_reference.PENALTY)
    assert told["generation_config"]["left_out"] == {"temperature": 0.6}


def test_bad_lines_are_named_and_skipped(reciting: Path, tmp_path: Path, console: Ranks) -> None:
    """Texts and chats of the others are answered; then the same command has nothing to do, and says the same."""
    chat = [{"role": "user", "content": "hi"}]
    lines = ["nope", {"prompt": "hi"}, {"prompt": ""}, "", {"messages": chat, "id": 7}, {"prompt_ids": [99_999]}]
    write_lines(tmp_path / "in.jsonl", [*lines, {"prompt": "x" * 30_000}])
    words = batch(reciting, tmp_path, "--mesh", "dp=3")
    first = console.run(*words)
    assert first.status == 1
    bad = {1: "is not JSON", 3: "prompt: is empty", 6: "token ids from 0 to", 7: "has 20000 positions"}
    told = [line for line in first.error_lines if line.startswith(str(tmp_path / "in.jsonl"))]
    for line, (number, says) in zip(sorted(told), bad.items(), strict=True):
        assert line.startswith(f"{tmp_path / 'in.jsonl'}:{number}: ") and says in line
    assert "6 lines: 2 answered, 4 skipped" in first.stderr and first.stdout == ""
    found = answers(tmp_path)
    assert [answer["line"] for answer in found] == [1, 2, 3, 5, 6, 7]
    assert [answer["line"] for answer in found if "error" in answer] == list(bad)
    for answer in (found[1], found[3]):
        assert (answer["text"], answer["prompt_tokens"], answer["finish_reason"]) == (TEXT, CHAT_TOKENS, "stop")
    before = (tmp_path / "out.jsonl").read_bytes()
    again = console.run(*words)
    assert (again.status, (tmp_path / "out.jsonl").read_bytes()) == (1, before)
    assert "0 answered, 0 skipped, 6 were there already" in again.stderr


@pytest.mark.parametrize("options", [("--mesh", "dp=3"), ("--decode", "pipeline"), ()], ids=" ".join)
def test_a_line_without_finite_scores_is_skipped_and_the_others_answered(
    options: tuple[str, ...], reciting: Path, tmp_path: Path, console: Ranks, alone: Ranks
) -> None:
    """Whether it is its prompt or its answer that does it."""
    model = reciting_model.poison(reciting, tmp_path / "poisoned", "c")
    lines = [{"prompt": prompt, "id": prompt, "presence_penalty": 0.1} for prompt in ("f", "c", "a", "d", "fc", "g")]
    write_lines(tmp_path / "in.jsonl", lines)
    words = batch(model, tmp_path, "--no-chat", "--max-new-tokens", "6", "--max-num-seqs", "4", *options)
    ended = (console if options else alone).run(*words)
    assert ended.status == 1, ended.stderr
    told = {answer["id"]: answer.get("text") for answer in answers(tmp_path)}
    assert told == {"f": "gh!", "c": None, "a": None, "d": "é😀", "fc": None, "g": "h!"}
    for number, prompt in ((2, "c"), (3, "a"), (5, "fc")):
        says = "the scores of tokens are no finite numbers, though all weights are; .* are those of layer 2"
        assert re.search(rf"in\.jsonl:{number}: .*{says}", ended.stderr), (prompt, ended.stderr)
    assert "6 lines: 3 answered, 3 skipped" in ended.stderr
    assert "of the weights 1 tensor (model.layers.9.odd.weight ...) left out: config.json has no place" in ended.stderr


@pytest.mark.parametrize("lines", [[], [{"prompt": "hi"}], ["nope", "nope"]], ids=["none", "one", "all bad"])
def test_fewer_lines_than_replicas(lines: list[Any], reciting: Path, tmp_path: Path, console: Ranks) -> None:
    write_lines(tmp_path / "in.jsonl", lines)
    ended = console.run(*batch(reciting, tmp_path, "--mesh", "dp=3"))
    assert ended.status == int("nope" in lines), ended.stderr
    assert len(answers(tmp_path)) == len(lines)


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 40
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline, f"{path} never had {count} lines"
        time.sleep(0.02)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_that_was_killed_is_gone_on_with(victim: int, reciting: Path, tmp_path: Path, alone: Ranks) -> None:
    """After the kill of any rank, with a last line that is cut off, on other ranks: nothing is lost or done twice."""
    out, lengths = tmp_path / "out.jsonl", [5, 6, 1500, 7, 1500, 8, 9, 10]
    write_lines(tmp_path / "in.jsonl", [{"prompt": "hi", "max_new_tokens": length} for length in lengths])
    words = batch(reciting, tmp_path, "--mesh", "dp=2", "--max-num-seqs", "1", "--ignore-eos")
    process = start(mpirun(2, mpi_spp(*words)))
    try:
        wait_for_lines(out, 2)
        os.kill(pid_of_rank(out, victim), signal.SIGKILL)
        assert finish(process, time.monotonic(), 20).status != 0
    finally:
        end(process)
    whole = out.read_bytes()
    num_kept = whole.count(b"\n")
    assert 2 <= num_kept < len(lengths)
    with out.open("ab") as file:
        file.write(b'{"line": 9')
    ended = alone.run(*batch(reciting, tmp_path, "--ignore-eos"))
    assert ended.status == 0, ended.stderr
    assert out.read_bytes().startswith(whole[: whole.rfind(b"\n") + 1])
    assert [len(answer["token_ids"]) for answer in answers(tmp_path)] == lengths
    assert f"{num_kept} were there already" in ended.stderr


def check_refused(ended: Ended, says: str) -> None:
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith("mpi-spp: error: ") and says in ended.stderr


def test_an_output_that_is_the_input(reciting: Path, tmp_path: Path, console: Ranks) -> None:
    lines = write_lines(tmp_path / "in.jsonl", [{"prompt": "hi"}])
    before = lines.read_bytes()
    check_refused(console.run(*batch(reciting, tmp_path, "--output", str(lines))), "--output: ")
    assert lines.read_bytes() == before
    check_refused(
        console.run(*batch(reciting, tmp_path, "--output", "-")), "--output: - is standard output, which cannot take"
    )
    resume = str(tmp_path / "out.jsonl.resume")  # without it nothing could be gone on with
    check_refused(console.run(*batch(reciting, tmp_path, "--json", resume)), "is what --output goes on with too")


@pytest.mark.parametrize("command", [("generate", "--prompt", "hi"), ("bench", "decode")], ids=" ".join)
def test_one_prompt_needs_one_replica(command: tuple[str, ...], reciting: Path, console: Ranks) -> None:
    ended = console.run(*command, "--model", str(reciting), "--mesh", "dp=3")
    check_refused(ended, "--mesh: dp=3 has 3 replicas, but one prompt needs one")
