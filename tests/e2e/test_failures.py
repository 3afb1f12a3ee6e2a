"""Runs that go wrong in the middle: nothing hangs, nothing is left running, and what happened is shown."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks
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

SECONDS_TO_END = 10.0
SECONDS_AFTER_CTRL_C = 1.0
LONG = 50_000  # tokens: minutes of work

# Appended to a file of a copy of the package, so that the product has no code for this. Rank 1 fails in mid-run.
FAILING_STEP = """
from mpi_spp.comm.environment import launched_rank

class Failing(decode):
    steps = 0

    def step(self):
        self.steps += 1
        if launched_rank() == 1 and self.steps == 40:
            raise RuntimeError("rank 1 lost its mind")
        return super().step()

decode = Failing
"""
FAILING_SYNC = """
def exchange(comm, shared, healthy=exchange):
    if comm.rank == 1 and shared.tag == 3:
        raise RuntimeError("rank 1 lost its mind")
    return healthy(comm, shared)
"""


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("models") / "long", max_position_embeddings=2 * LONG)


@pytest.fixture
def model(shared_model: Path, tmp_path: Path) -> Path:
    """A path of its own for each test: by it, its ranks are found among all processes."""
    (tmp_path / "model").symlink_to(shared_model)
    return tmp_path / "model"


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "mpi_spp", tmp_path / "tree" / "mpi_spp", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


def generate(model: Path, *arguments: str) -> list[str]:
    return mpi_spp("generate", "--model", str(model), "--ignore-eos", "--max-new-tokens", str(LONG), *arguments)


def wait_for_line(path: Path, text: str) -> None:
    """Return when a log says so."""
    deadline = time.monotonic() + 40
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.05)


def ended_after(process: Any, model: Path, seconds: float) -> Ended:
    """Check that the run ends within this time from now, and wholly."""
    ended = finish(process, time.monotonic(), seconds + 10)
    assert ended.seconds < seconds
    assert left_running(model) == []
    return ended


@pytest.mark.parametrize(
    "file, code",
    [("strategies/decode/replicated.py", FAILING_STEP), ("strategies/sync/pairwise.py", FAILING_SYNC)],
    ids=["decode", "prefill"],
)
def test_a_rank_that_raises_ends_all(package_copy: Path, model: Path, file: str, code: str) -> None:
    with (package_copy / "mpi_spp" / file).open("a") as source:
        source.write(code)
    command = generate(model, "--prompt", "hello", "--chunk-size", "2")
    ended = run(mpirun(3, command), tree=package_copy)
    assert ended.status not in (0, 2)
    assert "[rank 1] Traceback" in ended.stderr
    assert "RuntimeError: rank 1 lost its mind" in ended.stderr
    assert left_running(model) == []


def test_a_rank_that_is_killed_ends_all(model: Path) -> None:
    process = start(mpirun(3, generate(model, "--prompt", "hello")))
    try:
        assert read_some(process)  # the ranks are decoding
        os.kill(pid_of_rank(model, 1), signal.SIGKILL)
        assert ended_after(process, model, SECONDS_TO_END).status != 0
    finally:
        end(process)


def test_ctrl_c_ends_one_process(model: Path) -> None:
    process = start(generate(model, "--prompt", "hi"))
    try:
        assert read_some(process)
        process.send_signal(signal.SIGINT)
        ended = ended_after(process, model, SECONDS_AFTER_CTRL_C)
    finally:
        end(process)
    assert (ended.status, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("phase", ["prefill", "prefill of long chunks", "decode"])
def test_ctrl_c_ends_all(model: Path, tmp_path: Path, phase: str) -> None:
    (tmp_path / "ids.json").write_text(json.dumps([5] * LONG))
    chunk = "2048" if "long" in phase else "4"
    prompt = ["--prompt-ids", str(tmp_path / "ids.json"), "--chunk-size", chunk]
    log = tmp_path / "logs" / "rank2.log"
    command = generate(model, "--log-dir", str(log.parent), *(["--prompt", "hi"] if phase == "decode" else prompt))
    process = start(mpirun(3, command))
    try:
        if phase == "decode":
            assert read_some(process)
        elif "long" in phase:
            wait_for_line(log, "prefill_start")
            time.sleep(0.5)
        else:
            assert f" of {LONG} tokens in 5 s, about " in read_some(process, "stderr").decode()
        process.send_signal(signal.SIGINT)
        ended = ended_after(process, model, SECONDS_AFTER_CTRL_C)
    finally:
        end(process)
    assert ended.status != 0
    assert "Traceback" not in ended.stderr and "KeyboardInterrupt" not in ended.stderr
    assert ("prefill_end" in log.read_text()) == (phase == "decode")


@pytest.mark.parametrize("launching, loading", [("mpich", "openmpi"), ("openmpi", "mpich")])
def test_a_launcher_of_another_mpi(model: Path, launching: str, loading: str) -> None:
    found = environments()
    if not {launching, loading} <= set(found):
        pytest.skip("needs two environments, one with each MPI")
    command = mpi_spp("generate", "--model", str(model), "--prompt", "hi", python=found[loading][1])
    ended = run(mpirun(3, command, launcher=found[launching][0]))
    assert ended.status == 2
    assert len(ended.error_lines) == 1, ended.stderr
    assert ended.stderr.startswith("mpi-spp: error: ")
    assert "the launcher started 3 ranks" in ended.stderr and "belong to different MPIs" in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]], ids=" ".join)
def test_one_rank_helps(arguments: list[str], console: Ranks, alone: Ranks) -> None:
    one = alone.run(*arguments)
    together = console.run(*arguments)
    assert (together.status, together.stdout, together.error_lines) == (0, one.stdout, [])
    assert one.stdout
