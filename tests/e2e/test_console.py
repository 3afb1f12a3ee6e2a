"""The ranks that stay: a command there tells and leaves as one that was started, and does nothing to the next one."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import reciting_model
from console import Console, ConsoleEnded
from mpirun import ROOT

from mpi_spp.launch import supervisor as guard

# A rank whose `mpi-spp model` does what its next word says, in the place of the product's.
PROGRAM = """
import os, sys, time
sys.path[:0] = {paths}
import click
import console_rank
import mpi_spp.cli.model
from mpi_spp.comm.environment import launched_rank
from mpi_spp.errors import UserError

@click.command("model")
@click.argument("what")
def command(what):
    if what == "refuse":
        raise UserError(f"rank {{launched_rank()}} refuses" if launched_rank() else "all refuse")
    if what == "leave":
        print("bye")
        sys.exit(3)
    if what == "tell":
        os.write(1, f"out {{launched_rank()}}\\n".encode())
        print("err", launched_rank(), os.environ["COLOUR"], os.getcwd(), file=sys.stderr)
        os.environ["LEFT_BEHIND"] = "1"
    if what == "see":
        print(sorted({{"COLOUR", "LEFT_BEHIND"}} & set(os.environ)), os.getcwd())
    if what == "fail":
        raise RuntimeError("lost its mind")
    if what == "die" and launched_rank() == 1:
        os._exit(7)
    if what in ("die", "hang"):
        time.sleep(1000)

mpi_spp.cli.model.command = command
console_rank.main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    program = tmp_path_factory.mktemp("program") / "rank.py"
    program.write_text(PROGRAM.format(paths=[str(ROOT), str(ROOT / "tests")]))
    console = Console(2, program)
    yield console
    console.close()


def test_an_error_of_all_ranks_is_one_line(ranks: Console) -> None:
    ended = ranks.run("model", "refuse")
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", "mpi-spp: error: all refuse\n")


def test_a_status_of_its_own(ranks: Console) -> None:
    """Standard output is rank 0's alone, as in a start."""
    ended = ranks.run("model", "leave")
    assert (ended.status, ended.stdout, ended.stderr) == (3, "bye\n", "")


def test_what_all_ranks_write(ranks: Console, tmp_path: Path) -> None:
    """Also past Python's own streams; variables and directory are the command's alone."""
    ended = ranks.run("model", "tell", cwd=tmp_path, variables={"COLOUR": "blue"})
    assert ended.status == 0
    assert sorted(ended.stdout.splitlines()) == ["out 0", "out 1"]
    assert sorted(ended.stderr.splitlines()) == [f"err {rank} blue {tmp_path}" for rank in range(2)]
    assert ranks.run("model", "see").stdout == f"[] {ROOT}\n"


def test_words_that_differ(ranks: Console) -> None:
    ended = ranks.run_different([("model", "tell"), ("model", "see")], variables=[{"COLOUR": "red"}, {}])
    assert (ended.stdout, ended.stderr) == ("out 0\n", f"err 0 red {ROOT}\n")


def test_bad_words(ranks: Console) -> None:
    ended = ranks.run("model", "leave", "--now")
    assert ended.status == 2 and len(ended.error_lines) == 1 and "No such option '--now'" in ended.stderr


@pytest.mark.parametrize("what, says", [("die", "has ended the ranks"), ("fail", "lost its mind")])
def test_a_command_that_ends_the_ranks_fails_and_the_next_has_new_ones(what: str, says: str, ranks: Console) -> None:
    with pytest.raises(ConsoleEnded, match=says):
        ranks.run("model", what)
    assert ranks.run("model", "leave").status == 3


def test_a_command_that_hangs_fails_in_time(ranks: Console) -> None:
    began = time.monotonic()
    with pytest.raises(ConsoleEnded, match="has not ended in time"):
        ranks.run("model", "hang", timeout=1)
    assert time.monotonic() - began < 10
    assert ranks.run("model", "leave").status == 3


def test_a_run_leaves_nothing_behind_in_the_product(ranks: Console, tmp_path: Path) -> None:
    """Logs and traces are those of one run."""
    model = reciting_model.build(tmp_path / "model")
    words = ["generate", "--model", str(model), "--prompt", "hi"]
    first = ranks.run(*words, "--log-dir", str(tmp_path / "first"), "--trace-messages")
    log = (tmp_path / "first" / "rank1.log").read_text()
    second = ranks.run(*words, "--log-dir", str(tmp_path / "second"))
    third = ranks.run(*words)
    assert first.stdout == second.stdout == third.stdout == reciting_model.TEXT + "\n"
    assert " r0 send -> r1, " in first.stderr and " r0 send -> r1, " not in second.stderr
    assert (tmp_path / "first" / "rank1.log").read_text() == log and "prefill_end at" in log
    assert (tmp_path / "second" / "rank1.log").read_text().count("prefill_end at") == 1


def test_runs_do_not_grow(ranks: Console, tmp_path: Path) -> None:
    """What a run had of memory, descriptors and windows of MPI is the next one's."""
    model = reciting_model.build(tmp_path / "model")
    words = ["generate", "--model", str(model), "--prompt", "hi", "--json", "-"]

    def peak() -> int:
        return int(json.loads(ranks.run(*words).stdout)["ranks"][1]["peak_memory_bytes"])

    before, windows = max(peak() for _ in range(4)), shared_by(ranks)
    assert windows
    assert max(peak() for _ in range(8)) < before + 5e6
    assert len(shared_by(ranks)) <= len(windows)


def shared_by(ranks: Console) -> set[str]:
    """The files of shared memory that the ranks have mapped; other jobs, beside these tests, have theirs."""
    maps = [Path(f"/proc/{process}/maps") for process in guard._descendants(ranks._job.pid)]
    return {name for path in maps if path.exists() for name in re.findall(r"/dev/shm/\S+", path.read_text())}
