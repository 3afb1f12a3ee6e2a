"""A launcher of ranks on other hosts is ended when it awaits a lost one, and with status 0 believed by a sign alone."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpi_spp.launch.completion_marker import Sieve, new_sign

ROOT = Path(__file__).parents[2]
PATIENCE = 0.4
RANK = "OMPI_COMM_WORLD_RANK=0 sleep"
SIGN = new_sign()
GIVE = f"echo {SIGN} 0 >&2"
GUARDED = """
import os, sys
from mpi_spp.launch.supervisor import run_guarded
sys.exit(run_guarded(["sh", "-c", sys.argv[1]], os.environ, sys.argv[2], sys.argv[4] == "lose", float(sys.argv[3])))
"""


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """In scripts, `ssh` is another name of `sleep`."""
    shutil.copy(str(shutil.which("sleep")), tmp_path / "ssh")
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def start(script: str, variables: dict[str, str]) -> Any:
    """A guarded script. It takes Ctrl-C even where these tests were started in the background, as a shell does that."""
    program = [sys.executable, "-c", GUARDED, script, SIGN, str(PATIENCE), "lose"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is not ignored here is not ignored there
    try:
        return subprocess.Popen(program, cwd=ROOT, env=variables, text=True, start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)


def run(script: str, variables: dict[str, str]) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    with start(script, variables) as process:
        stdout, stderr = process.communicate(timeout=20)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_a_launcher_that_awaits_a_lost_host_is_ended(stubborn: str, variables: dict[str, str]) -> None:
    status, stdout, stderr = run(f"{stubborn} {RANK} 0.3 & ssh 60 & echo started; wait; exit 5", variables)
    assert (status, stdout) == (128 + (signal.SIGKILL if stubborn else signal.SIGTERM), "started\n")
    assert stderr.count("mpi-spp: error: the ranks on this host have ended") == 1


@pytest.mark.parametrize(
    "script",
    [
        f"PMI_RANK=3 sleep 1.5 & ssh 1.5 & {RANK} 0.1; wait; exit 4",  # a rank still works
        f"{RANK} 0.3; sleep 1.5; exit 4",  # no ssh: it may wait for whoever reads its output
        "ssh 1.5; exit 4",  # no rank here
        pytest.param(f"{GIVE}; exit 4", id="a failure after all work is one"),  # the sign itself is another every day
    ],
)
def test_any_other_launcher_ends_as_it_likes(script: str, variables: dict[str, str]) -> None:
    assert run(script, variables) == (4, "", "")


def test_a_launcher_that_somebody_stops_is_named_once_and_goes_on(variables: dict[str, str]) -> None:
    status, stdout, stderr = run(f"(sleep 0.6; kill -CONT $$) & kill -STOP $$; echo on; {GIVE}; exit 4", variables)
    assert (status, stdout) == (4, "on\n")
    assert stderr.startswith("mpi-spp: mpirun (process ") and stderr.count("is stopped") == 1


def test_status_0_needs_the_sign(variables: dict[str, str]) -> None:
    """Open MPI's mpirun ends a job that has lost a host, and may do so with status 0."""
    assert run(f"echo answer; {GIVE}", variables) == (0, "answer\n", "")
    assert run(f"echo {SIGN} 2 >&2", variables) == (2, "", "")  # told by rank 0, in place of a launcher's own words
    status, _, stderr = run("echo node2 is gone >&2", variables)
    assert status == 1
    assert stderr.splitlines()[0] == "node2 is gone"
    assert stderr.splitlines()[1].startswith(
        "mpi-spp: error: mpirun ended, but rank 0 did not say that its work is done"
    )


def test_what_outlives_the_launcher_is_not_waited_for(variables: dict[str, str]) -> None:
    """An ssh to a lost host keeps standard error open."""
    began = time.monotonic()
    with start(f"sleep 60 & echo $!; {GIVE}", variables) as process:
        left = int(process.stdout.readline())
        assert process.wait(20) == 0
    os.kill(left, signal.SIGKILL)
    assert time.monotonic() - began < 20


KILLED = """
import mmap, os, signal, sys, time
own, model = open(sys.argv[1], "w+b"), open(sys.argv[2], "w+b")
maps = [(file.truncate(4096), mmap.mmap(file.fileno(), 4096)) for file in (own, model)]
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(0.3 if len(sys.argv) == 3 else 60)
"""


@pytest.mark.parametrize("stubborn", ["", "stays"])
def test_what_a_killed_launcher_leaves_is_removed(stubborn: str, tmp_path: Path, variables: dict[str, str]) -> None:
    """Its ranks, the memory that they share and its folder; nothing that may be another's."""
    name = f"mpi-spp-test-{os.getpid()}"
    own, model = Path(f"/dev/shm/sm_segment.{name}"), Path(f"/dev/shm/{name}")
    (tmp_path / "ompi.1").mkdir()
    rank = shlex.join(["env", "PMI_RANK=0", sys.executable, "-c", KILLED, str(own), str(model), *stubborn.split()])
    script = f"mkdir {tmp_path}/ompi.$$; ls {tmp_path}; {rank}; true"
    began = time.monotonic()
    with start(script, variables | {"TMPDIR": str(tmp_path)}) as process:
        stdout, stderr = process.communicate(timeout=30)
    found = [path.exists() for path in (own, model)]
    model.unlink()
    assert (process.returncode, found, stderr) == (128 + signal.SIGKILL, [False, True], "")
    assert stdout.count("ompi.") == 2 and [path.name for path in tmp_path.glob("ompi.*")] == ["ompi.1"]
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_reaches_the_launcher_once(send: Any, variables: dict[str, str]) -> None:
    """Open MPI takes a second one for an order to leave its ranks behind."""
    with start(
        "trap 'echo caught' INT; echo ready; for i in 1 2 3 4 5; do sleep 0.1; done; exit 3", variables
    ) as process:
        assert process.stdout.readline() == "ready\n"
        send(process.pid, signal.SIGINT)
        stdout, _ = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (3, "caught\n")


def test_want_of_memory_is_named(variables: dict[str, str]) -> None:
    """By the kernel's count, which is another's here."""
    counted = "import mpi_spp.launch.supervisor as guard\nguard.memory_kills = iter((4, 5)).__next__\nsys.exit"
    lacking = GUARDED.replace("sys.exit", counted)
    for status, is_told in ((137, True), (2, False)):
        program = [sys.executable, "-c", lacking, f"exit {status}", SIGN, str(PATIENCE), "lose"]
        done = subprocess.run(program, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=20)
        assert done.returncode == status
        assert ("mpi-spp: error: Linux has ended a process here for want of memory" in done.stderr) == is_told


def test_ctrl_z_stops_the_ranks_until_fg(variables: dict[str, str]) -> None:
    """Whatever the launcher makes of it."""

    def until(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def is_in(process: int, state: str) -> bool:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == state

    with start("trap '' TSTP; PMI_RANK=0 sleep 60 & echo $!; wait; exit 3", variables) as process:
        rank = int(process.stdout.readline())
        try:
            until(lambda: Path(f"/proc/{rank}/comm").read_text() == "sleep\n")  # before that it is a copy of the shell
            process.send_signal(signal.SIGTSTP)
            until(lambda: is_in(rank, "T") and is_in(process.pid, "T"))
            process.send_signal(signal.SIGCONT)
            until(lambda: is_in(rank, "S"))
        finally:
            os.kill(rank, signal.SIGKILL)
            process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 3


def test_who_kills_the_guard_ends_the_launcher(variables: dict[str, str]) -> None:
    with start("echo ready; exec sleep 60", variables) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.communicate(timeout=10) == ("", "")  # nobody holds the other ends of the pipes any more


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_sign_is_taken_out_of_any_pieces(size: int) -> None:
    sieve = Sieve("sign")
    data = b"50%\rsigning si\nsign 1" + b"sign 2\nthe rest sig"
    shown = b"".join(sieve.sift(data[at : at + size]) for at in range(0, len(data), size))
    assert sieve.status == 2
    assert shown + sieve.rest() == b"50%\rsigning si\nsign 1the rest sig"


def test_what_cannot_be_the_sign_is_shown_at_once() -> None:
    sieve = Sieve("sign")
    assert sieve.sift(b"50%\r") == b"50%\r"
    assert sieve.sift(b"a si") == b"a "
    assert sieve.sift(b"x") == b"six"
    assert sieve.status is None
