"""`mpi-spp ask` and several answers of `generate`, as a user runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks
from mpirun import Ended
from reciting_model import TEXT

POSITIONS = 300
DOCUMENT = "The sea is blue.\n\nThe lamp burns.\n"
QUESTIONS = ["Where?", "Who är it?", "Where?", "Where? And when?"]
TWO = 2  # fewer than ranks
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the document, and the questions with blank lines between them."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "document").write_text(DOCUMENT, encoding="utf-8")
    (directory / "questions").write_text("\n" + "\r\n \n".join(QUESTIONS), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "reciting"
    return reciting_model.build(directory, max_position_embeddings=POSITIONS)


def told(ended: Ended) -> dict[str, Any]:
    assert ended.status == 0, ended.stderr
    return json.loads(ended.stdout)


def ask(model: Path, files: Path, *arguments: str) -> list[str]:
    named = ["--document", str(files / "document"), "--questions", str(files / "questions")]
    return ["ask", "--model", str(model), *named, *arguments]


def test_answers_stand_below_their_questions(reciting: Path, files: Path, console: Ranks) -> None:
    """More questions than ranks: rank 0 has two."""
    ended = console.run(*ask(reciting, files, "--json", str(files / "out.json")))
    assert ended.status == 0, ended.stderr
    shown = [f"--- {number} of 4: {question}\n{TEXT}\n" for number, question in enumerate(QUESTIONS, 1)]
    assert ended.stdout == "".join(shown)
    assert "4 answers" in ended.stderr
    result = json.loads((files / "out.json").read_text())
    assert result["shared_tokens"] == len(f"<user\n{DOCUMENT.rstrip()}\n\nWh".encode())  # a token for each byte
    answers = result["answers"]
    assert [(one["question"], one["line"]) for one in answers] == list(zip(QUESTIONS, (2, 4, 6, 8), strict=True))
    assert [one["rank"] for one in answers] == [0, 0, 1, 2]
    assert {(one["text"], one["finish_reason"]) for one in answers} == {(TEXT, "stop")}
    assert result["new_tokens"] == sum(len(one["token_ids"]) for one in answers)
    assert all(result["timings"][name] > 0 for name in ("load_s", "prefill_s", "fan_out_s", "total_s"))
    assert result["fan_out_tokens_per_s"] > result["tokens_per_s"] > 0


@pytest.mark.parametrize("ranks", ["console", "alone"])
def test_a_question_without_finite_scores_is_named_and_the_others_answered(
    ranks: str, reciting: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whether it is its prompt or its answer that does it."""
    (tmp_path / "document").write_text("f")
    (tmp_path / "questions").write_text("f\nc\na\n\nd")
    model, out = reciting_model.poison(reciting, tmp_path / "poisoned", "c"), tmp_path / "out.json"
    words = ask(model, tmp_path, "--no-chat", "--max-new-tokens", "6", "--dtype", "float32", "--json", str(out))
    ended: Ended = request.getfixturevalue(ranks).run(*words)
    assert ended.status == 1, ended.stderr
    assert ended.stdout == "--- 1 of 4: f\ngh!\n--- 2 of 4: c\n\n--- 3 of 4: a\nb c\n--- 4 of 4: d\né😀\n"
    says = "the scores of tokens are no finite numbers, though all weights are; .* are those of layer 2"
    for line in (2, 3):
        assert re.search(rf"^mpi-spp: {tmp_path}/questions:{line}: .*{says}", ended.stderr, re.MULTILINE), ended.stderr
    told = [(one["text"], one["finish_reason"], "error" in one) for one in json.loads(out.read_text())["answers"]]
    assert [reason for _, reason, _ in told] == ["stop", "error", "error", "length"]
    assert [failed for _, _, failed in told] == [False, True, True, False]


def test_more_ranks_than_questions(reciting: Path, files: Path, console: Ranks) -> None:
    """The last rank has none."""
    (files / "few").write_text("\n".join(QUESTIONS[:TWO]), encoding="utf-8")
    words = ask(reciting, files, "--questions", str(files / "few"), "--json", "-")
    answers = told(console.run(*words))["answers"]
    assert [(one["rank"], one["text"]) for one in answers] == [(0, TEXT), (1, TEXT)]


def test_several_draws_are_the_same_on_any_number_of_ranks(reciting: Path, console: Ranks, alone: Ranks) -> None:
    settings = ["--temperature", "9", "--seed", "5", "--max-new-tokens", str(NEW_TOKENS), "--num-return-sequences", "4"]
    command = ["generate", "--model", str(reciting), "--prompt", "hi", *settings, "--json", "-"]
    drawn = [told(ranks.run(*command))["answers"] for ranks in (alone, console)]
    tokens = [[one["token_ids"] for one in answers] for answers in drawn]
    assert tokens[0] == tokens[1]
    assert len({tuple(one) for one in tokens[0]}) == 4
    assert [one["rank"] for one in drawn[1]] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--max-new-tokens", "9"], "--questions: line 3: with the document the prompt has"),
        (["--decode", "tensor"], "--decode: tensor splits the cache"),
    ],
)
def test_bad_input(arguments: list[str], says: str, reciting: Path, tmp_path: Path, console: Ranks) -> None:
    """One line from one rank; tests/unit/test_questions.py has the other cases."""
    (tmp_path / "document").write_text("text")
    (tmp_path / "questions").write_text("Why?\n\n" + "x" * POSITIONS)
    ended = console.run(*ask(reciting, tmp_path, *arguments))
    assert (ended.status, len(ended.error_lines), ended.stdout) == (2, 1, ""), ended.stderr
    assert ended.error_lines[0].startswith("mpi-spp: error: ") and says in ended.error_lines[0]
