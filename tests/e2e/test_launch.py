"""Ranks that are really started, by the mpirun that belongs to this Python: places, statuses, bad input."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import reciting_model

from mpi_spp.launch.hostfile import Host
from mpi_spp.launch.launcher import find_launcher
from mpi_spp.launch.line import mpirun_line, request_here
from mpi_spp.launch.placement import cores_here
from mpi_spp.system.start import words

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60
LAUNCH = [sys.executable, "-m", "mpi_spp", "launch"]
CORES = cores_here()
SHOW_PLACE = """
import json, os, sys
from mpi_spp.comm.components import choose_components
choose_components()
from mpi4py import MPI
names = ("OMP_NUM_THREADS", "HWLOC_COMPONENTS", "OMPI_MCA_mpi_yield_when_idle")
facts = {name: os.environ.get(name) for name in names}
facts |= {"rank": MPI.COMM_WORLD.rank, "size": MPI.COMM_WORLD.size, "cores": sorted(os.sched_getaffinity(0))}
everywhere = MPI.COMM_WORLD.gather(facts)
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(everywhere))
"""


def environment() -> dict[str, str]:
    """This package first, whatever the tests run under left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PMI_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def run(argv: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    settings = {"env": environment(), "cwd": ROOT, **settings}
    return subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, **settings)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run([*LAUNCH, *arguments])


def start(command: tuple[str, ...], num_ranks: int, before: tuple[str, ...] = (), **settings: Any) -> Any:
    """Run a command on ranks, through the function that `launch` uses."""
    argv, extra = mpirun_line(request_here(command, num_ranks, **settings), find_launcher())
    return run([*before, *argv], env={**environment(), **extra})


def start_program(program: str, num_ranks: int, before: tuple[str, ...] = (), **settings: Any) -> Any:
    """Run Python source on ranks."""
    return start((sys.executable, "-c", program), num_ranks, before, **settings)


def places(num_ranks: int, **settings: Any) -> list[dict[str, Any]]:
    result = start_program(SHOW_PLACE, num_ranks, **settings)
    assert result.returncode == 0, result.stderr
    shown: list[dict[str, Any]] = json.loads(result.stdout)
    assert [facts["rank"] for facts in shown] == list(range(num_ranks))
    assert all(facts["size"] == num_ranks and facts["HWLOC_COMPONENTS"] == "-gl" for facts in shown)
    return shown


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_every_core_has_one_rank_or_all_share(num_ranks: int) -> None:
    shown = places(num_ranks)
    if num_ranks <= len(CORES):
        assert sorted(core for facts in shown for core in facts["cores"]) == sorted(CORES)
        assert all(facts["OMP_NUM_THREADS"] == str(len(facts["cores"])) for facts in shown)
        assert all(facts["OMPI_MCA_mpi_yield_when_idle"] is None for facts in shown)
    else:
        assert all(facts["cores"] == sorted(os.sched_getaffinity(0)) for facts in shown)
        assert all(facts["OMP_NUM_THREADS"] == facts["OMPI_MCA_mpi_yield_when_idle"] == "1" for facts in shown)


def test_hosts_of_a_file_are_the_same_machine() -> None:
    assert len(places(3, hosts=(Host("localhost", 3),))) == 3


def test_more_ranks_than_slots() -> None:
    assert len(places(3, hosts=(Host("localhost", 1),))) == 3


def test_threads_take_so_many_cores() -> None:
    (facts,) = places(1, threads=1)
    assert len(facts["cores"]) == 1 and facts["OMP_NUM_THREADS"] == "1"


def test_only_the_cores_that_are_left_are_used() -> None:
    """As `taskset` or a batch system leave them; the launchers' own binding would not look."""
    last = max(CORES)
    result = start_program(SHOW_PLACE, 1, ("taskset", "-c", str(last)))
    assert json.loads(result.stdout)[0]["cores"] == [last], result.stderr


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_exit_status_is_passed_on(status: int) -> None:
    assert start_program(f"import sys; sys.exit({status})", 3).returncode == status


def test_a_killed_rank_ends_the_job() -> None:
    killed = (
        "from mpi4py import MPI; import os, time; MPI.COMM_WORLD.rank == 1 and os.kill(os.getpid(), 9); time.sleep(50)"
    )
    assert start_program(killed, 3).returncode not in (0, 2)


def test_a_program_that_is_not_there() -> None:
    result = start(("no-such-program",), 2)
    assert result.returncode != 0
    assert "mpi-spp: error: no-such-program: cannot be started (No such file or directory)" in result.stderr


def test_bad_input_on_the_ranks_has_its_own_status() -> None:
    result = launch("-np", "3", "--", "generate", "--model", "/no/such/model", "--prompt", "x")
    assert result.returncode == 2
    assert result.stderr.startswith("mpi-spp: error: ") and result.stderr.count("\n") == 1  # and no launcher's words


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-np", "3"], "the command to start is missing"),
        (["-np", "0", "--", "generate"], "Invalid value for '-np'"),
        (["-np", "3", "--", "generat"], "No such command 'generat'"),
        (["-np", "3", "--", "generate", "--promt", "x"], "No such option '--promt'"),
        (["-np", "3", "--", "launch"], "launch: cannot start itself"),
        (
            ["-np", "3", "--hostfile", "/no/such/file", "--", "model", "list"],
            "--hostfile: /no/such/file cannot be read",
        ),
        (["-np", "3", "--gpu-ids", "1,-2,3", "--", "model", "list"], "Invalid value for '--gpu-ids'"),
        (["-np", "3", "--gpu-ids", "1,1,2", "--", "generate", "--model", "m", "--prompt", "x"], "names a GPU twice"),
        (["-np", "3", "--threads", "2", "--", "generate", "--model", "m", "--threads", "1"], "--threads: given to"),
        (["-np", "2", "--debug-rank", "2", "--", "model", "list"], "--debug-rank: 2 is not there"),
    ],
)
def test_bad_input_is_one_line_from_here(arguments: list[str], complaint: str) -> None:
    result = launch(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("mpi-spp: error: ") and result.stderr.count("\n") == 1
    assert complaint in result.stderr


def test_the_launcher_of_another_mpi_is_named(tmp_path: Path) -> None:
    other = "HYDRA build details:\n Version: 4.2" if find_launcher().vendor == "openmpi" else "mpirun (Open MPI) 5.0"
    fake = tmp_path / "mpirun"
    fake.write_text(f"#!/bin/sh\necho '{other}'\n")
    fake.chmod(0o755)
    result = run([*LAUNCH, "--", "model", "list"], env={**environment(), "MPI_SPP_MPIRUN": str(fake)})
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"mpi-spp: error: {fake}: does not belong to (Open MPI|MPICH|Intel).* loads; .*\n", result.stderr
    )


def test_standard_input_is_left_to_the_next_command(tmp_path: Path) -> None:
    """As in `while read -r question; do mpi-spp launch ...; done`."""
    told = "mpirun (Open MPI) 5.0" if find_launcher().vendor == "openmpi" else "HYDRA build details:\n Version: 4.2"
    fake = tmp_path / "mpirun"
    fake.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo '{told}' && exit\ncat\n")
    fake.chmod(0o755)
    loop = f"{shlex.join([*LAUNCH, '-np', '2', '--', 'model', 'list'])} && cat"
    result = run(["sh", "-c", loop], env={**environment(), "MPI_SPP_MPIRUN": str(fake)}, input="the next question")
    assert (result.returncode, result.stdout) == (0, "the next question"), result.stderr


def test_no_launch_inside_a_launch() -> None:
    result = start((*LAUNCH, "--", "model", "list"), 2)
    assert result.returncode == 2
    assert result.stderr.count("mpi-spp: error: launch: runs under an mpirun already") == 1


def test_a_port_that_is_taken_is_one_line() -> None:
    pytest.importorskip("debugpy")
    with socket.create_server(("127.0.0.1", 0)) as server:
        debug = {"MPI_SPP_DEBUG_RANK": "0", "MPI_SPP_DEBUG_PORT": str(server.getsockname()[1])}
        result = run([sys.executable, "-m", "mpi_spp", "model", "list"], env={**environment(), **debug})
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "cannot be opened for the debugger" in result.stderr


def test_dry_run_prints_a_line_that_works() -> None:
    arguments = ["-np", "2", "--threads", "1", "--dry-run"]
    printed = launch(*arguments, "--", "model", "list", "--json", "-").stdout
    assert printed.startswith("HWLOC_COMPONENTS=-gl ") and printed.count("\n") == 1
    copied = run(["sh", "-c", printed])
    assert copied.returncode == 0 and "available" in json.loads(copied.stdout)
    as_json = json.loads(launch(*arguments, "--json", "-", "--", "model", "list").stdout)
    assert as_json["environment"] == {"HWLOC_COMPONENTS": "-gl"} and as_json["argv"][-2:] == ["model", "list"]


def test_shared_options_reach_the_inner_command() -> None:
    words = ["-np", "2", "--gpu-ids", "5,6", "--threads", "3", "--dry-run", "--json", "-"]
    argv = json.loads(launch(*words, "--", "generate", "--model", "m", "--prompt", "x").stdout)["argv"]
    assert argv[-4:] == ["--gpu-ids", "5,6", "--threads", "3"]
    assert argv[argv.index("mpi_spp.launch.placement") + 1 :][:2] == ["--threads", "3"]


def test_limits_of_a_hostfile_reach_the_ranks(tmp_path: Path) -> None:
    """Which refuse what needs more."""
    hostfile, model = tmp_path / "hosts", reciting_model.build(tmp_path / "model")
    hostfile.write_text("localhost slots=2 max-memory=1MB\n")
    words = ["--hostfile", str(hostfile), "--", "generate", "--model", str(model), "--prompt", "x"]
    refused = launch(*words)
    assert refused.returncode == 2 and refused.stderr.count("mpi-spp: error: --max-memory: ") == 1


def test_no_file_of_a_model_is_run(tmp_path: Path) -> None:
    """In its folder, neither by `launch`, nor by its ranks, nor by a plain command. They get standard input."""
    model = reciting_model.build(tmp_path / "model")
    for name in ("json", "random", "queue", "torch", "numpy", "tokenizers", "mpi4py", "sitecustomize"):
        (model / f"{name}.py").write_text("import os; os.write(2, b'was run'); os._exit(9)")
    (model / "mpi_spp").mkdir()
    (model / "mpi_spp" / "__init__.py").write_text("import os; os.write(2, b'was run'); os._exit(9)")
    question = ["generate", "--model", ".", "--prompt-file", "-", "--max-new-tokens", "4"]
    clean = environment() | {"PYTHONPATH": ""}
    ended = run([*words(), "launch", "-np", "2", "--", *question], cwd=model, env=clean, input="hello")
    assert (ended.returncode, "was run" in ended.stderr) == (0, False), ended.stderr
    shutil.rmtree(model / "mpi_spp")  # it is Python that looks for it here
    plain = run([sys.executable, "-m", "mpi_spp", *question], cwd=model, input="hello")
    assert (plain.returncode, plain.stdout, "was run" in plain.stderr) == (0, ended.stdout, False), plain.stderr
