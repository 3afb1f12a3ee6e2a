"""A rank that stops ends the job after `--timeout`, whatever the others wait in, and who waits for whom is said."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from mpirun import (
    ROOT,
    Ended,
    end,
    environments,
    finish,
    left_running,
    mpi_spp,
    mpirun,
    pid_of_rank,
    read_some,
    run,
    start,
)

from mpi_spp.launch.launcher import Launcher

TIMEOUT = 2  # seconds
OF_COMMANDS = 4  # all ranks of them read files for a while, which shows no life
SECONDS_TO_END = 12.0  # after the stop: the timeout, a few of its ticks, and what launchers take
AT_ONCE = 2  # jobs: they sleep most of the time
LONG = 20_000

# Of tests/stalls.py. All kinds of waits are in tests/ranks/test_watchdog.py; these differ in how the job ends.
KINDS = ("receive", "sum", "start", "finalize", "work", "silence")
OF_LAUNCHERS = KINDS[:4]


def stall(kind: str, marker: Path, timeout: float = TIMEOUT, other: tuple[Launcher, str] | None = None) -> Ended:
    """Two ranks, of which the last stops; nothing of them is left."""
    launcher, python = other or (None, sys.executable)
    command = [python, str(ROOT / "tests" / "stalls.py"), kind, str(timeout), str(marker)]
    ended = run(mpirun(2, command, launcher))
    assert left_running(marker) == []
    return ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Ended]]]:
    """All kinds, some at a time: they wait more than they compute."""
    marker = tmp_path_factory.mktemp("stalls")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        timeouts = {kind: 0 if kind == "silence" else TIMEOUT for kind in KINDS}
        yield {kind: pool.submit(stall, kind, marker / kind, timeout) for kind, timeout in timeouts.items()}


@pytest.mark.parametrize(
    "kind, says",
    [
        ("receive", r"receive \(test, tag 7, 8 bytes\); nothing is heard of rank 1"),
        ("sum", r"sum \(test, 8 bytes\)"),
    ],
)
def test_a_rank_that_stops_is_named(kind: str, says: str, ended: Mapping[str, Future[Ended]]) -> None:
    """In a wait of our own, where the other rank is missed, and inside MPI."""
    found = ended[kind].result()
    assert found.status not in (0, 2)
    line = rf"mpi-spp: error: rank 0 has waited \d s, since \S+, for rank 1 in {says}; if .*--timeout.*"
    assert len(found.error_lines) == 1 and re.fullmatch(line, found.error_lines[0]), found.stderr


def test_a_rank_that_never_starts_mpi(ended: Mapping[str, Future[Ended]]) -> None:
    found = ended["start"].result()
    assert found.status not in (0, 2)
    assert re.match(r"mpi-spp: error: the start of rank 0 \(\S+\) together with .* has taken 2 s; ", found.stderr)


def test_a_rank_that_stops_before_mpi_ends(ended: Mapping[str, Future[Ended]]) -> None:
    """Python has ended then: the launcher tells of the signal."""
    assert ended["finalize"].result().status not in (0, 2)


def test_ranks_that_work_are_waited_for(ended: Mapping[str, Future[Ended]]) -> None:
    found = ended["work"].result()
    assert found.status == 0
    for line in found.error_lines:
        assert re.fullmatch(
            r"mpi-spp: rank 0 has waited \d s, .* in its end \(job\); rank 1 at work; still waiting", line
        )
    assert len(found.error_lines) == 2


def test_no_limit(ended: Mapping[str, Future[Ended]]) -> None:
    found = ended["silence"].result()
    assert (found.status, found.stderr) == (0, "")


@pytest.mark.parametrize("kind", OF_LAUNCHERS)
def test_with_another_mpi(kind: str, tmp_path: Path) -> None:
    others = [found for found in environments().values() if Path(found[1]).parent != Path(sys.prefix) / "bin"]
    if not others:
        pytest.skip("needs a second environment, with another MPI")
    found = stall(kind, tmp_path, other=others[0])
    assert found.status not in (0, 2)
    assert found.stderr.startswith("mpi-spp: error: ") or kind == "finalize"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("models") / "long", max_position_embeddings=2 * LONG)


def wait_for(path: Path, text: str) -> None:
    """Return when a file says so."""
    deadline = time.monotonic() + 40
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.05)


def ended_by_a_stop(command: list[str], marker: Path, num_ranks: int, ready: Callable[[Any], object]) -> Ended:
    """The end of a job whose rank 1 stops in the middle; `ready(process)` returns when it is there."""
    process = start(mpirun(num_ranks, command))
    try:
        ready(process)
        os.kill(pid_of_rank(marker, 1), signal.SIGSTOP)
        found = finish(process, time.monotonic(), SECONDS_TO_END + 10)
    finally:
        end(process)
    assert found.seconds < SECONDS_TO_END and found.status not in (0, 2)
    assert left_running(marker) == []
    assert "Traceback" not in found.stderr
    return found


def stopped_generate(phase: str, model: Path, directory: Path) -> Ended:
    """Three ranks, of which rank 1 stops in this phase."""
    directory.mkdir()
    (directory / "ids.json").write_text(json.dumps([5] * LONG))
    prompt = ["--prompt-ids", str(directory / "ids.json"), "--chunk-size", "16", "--max-new-tokens", "9"]
    if phase == "decode":
        prompt = ["--prompt", "hi", "--max-new-tokens", str(LONG), "--ignore-eos"]
    options = ["--model", str(model), "--timeout", str(OF_COMMANDS), "--log-dir", str(directory)]
    log = directory / "rank1.log"
    ready = read_some if phase == "decode" else lambda process: wait_for(log, "prefill_start")
    found = ended_by_a_stop(mpi_spp("generate", *options, *prompt), directory, 3, ready)
    assert ("prefill_end" in log.read_text()) == (phase == "decode")
    return found


def stopped_batch(model: Path, directory: Path) -> Ended:
    """Two replicas, of which the second stops; the first answers what is left."""
    directory.mkdir()
    lines = [{"prompt": "hi", "max_new_tokens": count} for count in (20, 8000, 20, 20)]
    (directory / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = directory / "out.jsonl"
    files = ["--input", str(directory / "in.jsonl"), "--output", str(out), "--model", str(model)]
    options = ["--timeout", str(OF_COMMANDS), "--mesh", "dp=2", "--ignore-eos", "--max-num-seqs", "1"]
    return ended_by_a_stop(mpi_spp("batch", *files, *options), out, 2, lambda process: wait_for(out, "\n"))


def stopped_ask(model: Path, directory: Path) -> Ended:
    """Two ranks with an answer of their own each, and no message in between; the second stops."""
    directory.mkdir()
    for name, text in (("document", "hi"), ("questions", "a\nb\n")):
        (directory / name).write_text(text)
    files = ["--document", str(directory / "document"), "--questions", str(directory / "questions")]
    options = ["--model", str(model), "--timeout", str(OF_COMMANDS), "--max-new-tokens", str(LONG), "--ignore-eos"]
    return ended_by_a_stop(mpi_spp("ask", *files, *options), directory / "questions", 2, read_some)


@pytest.fixture(scope="module")
def stopped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Ended]]]:
    """The commands, some at a time: when one has stopped it only waits."""
    directory = tmp_path_factory.mktemp("stopped")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        phases = ("prefill", "decode")
        jobs = {phase: pool.submit(stopped_generate, phase, model, directory / phase) for phase in phases}
        jobs["ask"] = pool.submit(stopped_ask, model, directory / "ask")
        yield jobs | {"batch": pool.submit(stopped_batch, model, directory / "batch")}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_generate(phase: str, stopped: Mapping[str, Future[Ended]]) -> None:
    """Of two ranks that wait one speaks, and names the one that both have lost."""
    found = stopped[phase].result()
    lines = [line for line in found.error_lines if line.startswith("mpi-spp: error: ")]
    assert len(lines) == 1, found.stderr
    line = lines[0]
    assert "; nothing is heard of rank 1; " in line
    if phase == "prefill":  # rank 0 computes its chunks all the while
        assert "error: rank 2 has waited " in line and "for rank 1 in receive (replica, " in line


def test_batch(stopped: Mapping[str, Future[Ended]]) -> None:
    """Rank 0 answers what is left, and then waits for the replica that has stopped."""
    found = stopped["batch"].result()
    assert "for rank 1 in receive (mailbox, tag 0); nothing is heard of rank 1; " in found.stderr


def test_ask(stopped: Mapping[str, Future[Ended]]) -> None:
    """Who makes an answer of its own misses a rank that makes another, without waiting for it."""
    found = stopped["ask"].result()
    assert reciting_model.TEXT in found.stdout
    line = next(line for line in found.error_lines if line.startswith("mpi-spp: error: "))
    missed = r"mpi-spp: error: nothing has been heard of rank 1 for 4 s or more, while rank 0 works; "
    assert re.match(missed, line), found.stderr
