"""The runner of the tests counts what really happened: failures on one rank, crashes, hangs and empty parts."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import outcomes
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


def test_parts_side_by_side_leave_one_another_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Each ends what it has started itself; what it writes is shown when it has ended."""
    programs = {"long": "import time; time.sleep(1); print('the end')", "bad": "print('bad'); raise SystemExit(3)"}
    parts = [
        runner.Part(name, "lint", [sys.executable, "-c", program], idles=True) for name, program in programs.items()
    ]
    results = list(runner.run_all(parts, False, False))
    assert [(one.name, one.counts) for one in results] == [("bad", (0, 1, 0)), ("long", (1, 0, 0))]
    output = capfd.readouterr().out
    assert output.index("bad: ended with status 3") < output.index("==== long") < output.index("the end")


@pytest.mark.parametrize("is_selection,failed", [(False, 1), (True, 0)])
def test_no_test_at_all(tmp_path: Path, is_selection: bool, failed: int) -> None:
    assert runner.run(part_of(tmp_path, "", 2), False, is_selection).counts == (0, failed, 0)


def lines_of(*outcomes: str) -> str:
    """As the tests write them: outcome, name, seconds."""
    return "".join("\t".join([*one.split(), "1.0"]) + "\n" for one in outcomes)


def test_worst_outcome_counts_and_silence_is_a_failure() -> None:
    lines = lines_of("running a", "passed a", "failed a", "running b", "skipped b", "running c", "passed c")
    assert outcomes.count(lines, succeeded=False, is_selection=False) == (1, 1, 1)
    assert outcomes.count(lines_of("running a", "passed a"), succeeded=False, is_selection=False) == (1, 1, 0)
    assert outcomes.count(lines_of("running a"), succeeded=True, is_selection=False) == (0, 1, 0)
    assert outcomes.count(lines_of("excused a", "running a"), succeeded=True, is_selection=False) == (0, 1, 0)
    assert outcomes.count(lines_of("skipped a"), succeeded=True, is_selection=False) == (0, 1, 1)
    assert outcomes.count("", succeeded=True, is_selection=True) == (0, 0, 0)


MARKED = (
    "@pytest.mark.ranks(2)\ndef test_of_two():\n    time.sleep(0.6)\n"
    "@pytest.mark.ranks(3)\ndef test_of_three():\n    pass\n"
    '@pytest.mark.full\ndef test_of_the_matrix():\n    """Takes long: it sleeps."""\n    time.sleep(0.6)\n'
)


@pytest.mark.parametrize("full, passed", [(False, 1), (True, 3)])
def test_every_test_has_its_own_numbers_of_ranks_and_says_why_it_is_slow(
    full: bool, passed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those for other numbers are left out, and not counted as skipped; the slowest are named."""
    monkeypatch.setattr(outcomes, "LONG_SECONDS", 0.5)
    result = runner.run(part_of(tmp_path, MARKED, 2), full, False)
    assert result.counts == (passed, 0, 0)
    capfd.readouterr()
    outcomes.print_slowest([result])
    lines = capfd.readouterr().out.splitlines()
    (complaint,) = (line for line in lines if "does not say why" in line)
    assert "test_of_two" in complaint
    assert sum("0.6 s  ranks -np 2" in line for line in lines) == (2 if full else 1)


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Any, list[str]]:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return runner.parse_arguments()


def test_one_case_runs_on_its_own_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    options, arguments = parsed(monkeypatch, "--case", "ranks=4 mesh=pp=4 model=qwen3")
    parts = list(runner.chosen_parts(options, arguments))
    assert [part.name.split()[:3] for part in parts] == [["ranks", "-np", "4"]]
    assert parts[0].command[-1] == "tests/ranks/test_cases.py"
    assert runner.environment_of(options)["MPI_SPP_TEST_CASE"] == "ranks=4 mesh=pp=4 model=qwen3"


def test_a_seed_and_a_lesser_cpu_are_told_to_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    options, arguments = parsed(monkeypatch, "--seed", "7", "--cpu", "avx2")
    assert runner.environment_of(options) == runner.VARIABLES | {"MPI_SPP_TEST_SEED": "7", "MPI_SPP_CPU": "avx2"}
    names = [part.name for part in runner.chosen_parts(options, arguments) if part.kind == "ranks"]
    assert len(names) == len(runner.NUM_RANKS) and not any("avx2" in name for name in names)


def test_a_share_of_the_runs_is_made_as_on_a_lesser_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = (one for one in runner.chosen_parts(*parsed(monkeypatch)) if "avx2" in one.name)
    assert part.environment["MPI_SPP_CPU"] == "avx2" and part.environment["MPI_SPP_TEST_ONLY"] == "numbers"
