"""The runner of the tests counts what really happened: failures on one rank, crashes, hangs and empty parts."""

import shutil
import sys
import time
from pathlib import Path

import process_tree
import pytest
import run as runner

TESTS = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_processes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner ends all that is below it; here that is what the test itself started."""
    process_tree.adopt_orphans()


def part_of(directory: Path, source: str, num_ranks: int) -> runner.Part:
    """The rank tests of `source` on so many ranks, with the real conftest files."""
    (directory / "ranks").mkdir()
    shutil.copy(TESTS / "conftest.py", directory)
    shutil.copy(TESTS / "ranks" / "conftest.py", directory / "ranks")
    (directory / "ranks" / "test_it.py").write_text("import os, time, pytest\n" + source)
    arguments = ["-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(directory), str(directory / "ranks")]
    return list(runner.rank_parts(sys.executable, runner.NUM_RANKS, arguments))[num_ranks - 1]


FINE = "def test_fine(comm):\n    assert comm.allreduce(1) == 3\n"


def test_passes_and_skips_are_counted_once_for_all_ranks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = FINE + "def test_other():\n    pytest.skip('no such thing here')\n"
    assert runner.run(part_of(tmp_path, source, 3), False, False).counts == (1, 0, 1)
    output = capfd.readouterr().out
    assert output.count("test session starts") == 1 and "no such thing here" in output


def test_failure_on_one_rank_ends_all_and_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = FINE + (
        "def test_bad(comm):\n    number = comm.rank + 40\n    assert number != 42\n    comm.Barrier()\n"
        "def test_never():\n    pass\n"
    )
    result = runner.run(part_of(tmp_path, source, 3), False, False)
    assert result.counts == (1, 1, 0) and result.seconds < 60
    assert "[rank 2] E       assert 42 != 42" in capfd.readouterr().err


def test_failing_import_on_all_ranks_is_a_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert runner.run(part_of(tmp_path, "import nowhere_to_be_found", 2), False, False).counts == (0, 1, 0)
    assert "No module named 'nowhere_to_be_found'" in capfd.readouterr().err


def test_killed_rank_is_the_failure_of_the_running_test(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = FINE + "def test_dies(comm):\n    comm.rank != 1 or os.kill(os.getpid(), 9)\n    comm.Barrier()\n"
    assert runner.run(part_of(tmp_path, source, 3), False, False).counts == (1, 1, 0)
    assert "test_dies: did not end" in capfd.readouterr().out


def test_hang_is_ended_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(runner.SECONDS, "ranks", 6)
    source = (
        FINE.replace("3", "2") + "def test_hangs(comm):\n    comm.rank == 0 or comm.Barrier()\n    time.sleep(1e6)\n"
    )
    start = time.monotonic()
    assert runner.run(part_of(tmp_path, source, 2), False, False).counts == (1, 1, 0)
    assert time.monotonic() - start < 30
    assert "did not end within 6 s" in capfd.readouterr().out
    assert process_tree._descendants() == []


@pytest.mark.parametrize("is_selection,failed", [(False, 1), (True, 0)])
def test_no_test_at_all(tmp_path: Path, is_selection: bool, failed: int) -> None:
    assert runner.run(part_of(tmp_path, "", 2), False, is_selection).counts == (0, failed, 0)


def test_worst_outcome_counts_and_silence_is_a_failure() -> None:
    lines = "running\ta\npassed\ta\nfailed\ta\nrunning\tb\nskipped\tb\nrunning\tc\npassed\tc\n"
    assert runner.count(lines, succeeded=False, is_selection=False) == (1, 1, 1)
    assert runner.count("running\ta\npassed\ta\n", succeeded=False, is_selection=False) == (1, 1, 0)
    assert runner.count("running\ta\n", succeeded=True, is_selection=False) == (0, 1, 0)
    assert runner.count("skipped\ta\n", succeeded=True, is_selection=False) == (0, 1, 1)
    assert runner.count("", succeeded=True, is_selection=True) == (0, 0, 0)
