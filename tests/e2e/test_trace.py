"""`--trace`, `--trace-messages` and `mpi-spp trace` as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks
from mpirun import Ended
from reciting_model import TEXT

from mpi_spp.instruments.trace.perfetto import read_trace

NUM_LAYERS, NUM_RANKS = 5, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("models") / "reciting", num_hidden_layers=NUM_LAYERS)


@pytest.fixture(scope="module")
def traced(model: Path, tmp_path_factory: pytest.TempPathFactory, console: Ranks) -> tuple[Ended, Path]:
    """A run of three ranks with a trace, and the file."""
    file = tmp_path_factory.mktemp("run") / "trace.json"
    words = ["generate", "--model", str(model), "--prompt", "hi", "--chunk-size", "8", "--trace", str(file)]
    ended = console.run(*words, "--trace-messages", "--sync-strategy", "ring")
    assert ended.status == 0, ended.stderr
    return ended, file


def test_the_answer_is_what_it_is_without(traced: tuple[Ended, Path]) -> None:
    assert traced[0].stdout == TEXT + "\n"


def test_every_message_has_a_line_of_both_ranks(traced: tuple[Ended, Path]) -> None:
    lines = traced[0].stderr.splitlines()
    for shown in (
        " r0 send -> r1, replica, tag 0, ",
        " r1 receive <- r0, replica, tag 0, ",
        " r2 send -> r0, KV sync,",
    ):
        assert any(shown in line and line.endswith(" us") for line in lines), shown


def test_the_file_is_named(traced: tuple[Ended, Path]) -> None:
    ended, file = traced
    assert f"mpi-spp: {file}: " in ended.stderr and f"events of {NUM_RANKS} ranks" in ended.stderr


def test_the_summary(traced: tuple[Ended, Path], alone: Ranks) -> None:
    ended = alone.run("trace", "summary", str(traced[1]), "--json", "-")
    told = json.loads(ended.stdout)
    assert (told["world_size"], len(told["ranks"]), ended.stderr) == (NUM_RANKS, NUM_RANKS, "")
    for rank in told["ranks"]:
        states = sum(rank[name] for name in ("busy_s", "bubble_s", "exposed_s", "other_s"))
        assert states == pytest.approx(told["window_s"]) and rank["busy_s"] > 0
    path = told["critical_path"]
    assert sum(path["work_s"]) + path["messages_s"] == pytest.approx(told["window_s"])
    ended = alone.run("trace", "summary", str(traced[1]))
    assert ended.status == 0 and f"{NUM_RANKS} ranks" in ended.stdout and "critical path: " in ended.stdout


def test_the_picture(traced: tuple[Ended, Path], tmp_path: Path, alone: Ranks) -> None:
    pytest.importorskip("matplotlib")
    for picture in (tmp_path / "out.png", tmp_path / "out.html"):
        ended = alone.run("trace", "plot", str(traced[1]), str(picture), "--json", "-")
        assert ended.status == 0, ended.stderr
        assert json.loads(ended.stdout)["events"].keys() == {"0", "1", "2"}
        assert picture.stat().st_size > 5000


def arguments_of(command: str, directory: Path) -> tuple[str, ...]:
    """What each command needs besides its model."""
    (directory / "in.jsonl").write_text('{"prompt": "hi"}\n' * 3)
    (directory / "text.txt").write_text("A text.")
    (directory / "questions.txt").write_text("one\ntwo\nthree\n")
    return {
        "bench e2e": ("--prompt-tokens", "20", "--new-tokens", "3", "--repetitions", "1"),
        "bench prefill": ("--prompt-tokens", "20", "--repetitions", "1", "--chunk-size", "5", "--chunk-size", "8"),
        "ask": ("--document", str(directory / "text.txt"), "--questions", str(directory / "questions.txt")),
        "batch": ("--input", str(directory / "in.jsonl"), "--output", str(directory / "out.jsonl"), "--mesh", "dp=3"),
    }[command]


@pytest.mark.parametrize("command", ["bench e2e", "bench prefill", "ask", "batch"])
def test_every_command_that_computes(command: str, model: Path, tmp_path: Path, console: Ranks) -> None:
    file = tmp_path / "trace.json"
    arguments = (*arguments_of(command, tmp_path), "--threads", "1", "--trace", str(file))
    ended = console.run(*command.split(), "--model", str(model), *arguments)
    assert ended.status == 0, ended.stderr
    timelines = read_trace(file)
    names: list[set[str]] = [{event.name for event in timeline.events} for timeline in timelines]
    assert set().union(*names) >= {f"layer {number}" for number in range(NUM_LAYERS)}
    assert all({"prefill", "sync", "select", "chunk 0"} <= of_rank for of_rank in names)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["summary", "{other}"], "is no trace of mpi-spp; give a file that `--trace FILE` has written"),
        (["plot", "{other}", "out.png"], "is no trace of mpi-spp"),
        (["summary", "no/such.json"], "no/such.json cannot be read (No such file or directory)"),
        (["plot", "{trace}", "out.txt"], "PICTURE: out.txt has to end in .png or .svg or .html"),
        (["summary", "{trace}", "--json", "no/such/out.json"], "--json: no/such/out.json cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input(arguments: list[Any], says: str, traced: tuple[Ended, Path], tmp_path: Path, alone: Ranks) -> None:
    (tmp_path / "other.json").write_text('{"traceEvents": []}')
    files = {"{other}": str(tmp_path / "other.json"), "{trace}": str(traced[1])}
    ended = alone.run("trace", *(files.get(argument, argument) for argument in arguments), cwd=tmp_path)
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1), ended.stderr
    assert says in ended.stderr
