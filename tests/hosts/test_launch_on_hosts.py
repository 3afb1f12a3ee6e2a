"""`mpi-spp launch` on three hosts as a user has them: other names, other networks, ssh between them."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import reciting_model
import smollm2
from console import ALL_START, Console
from mpirun import ROOT, Ended, end, environments, finish, mpi_spp, read_some, run, start

from benchmarks.hosts.machine import run as on_host
from benchmarks.hosts.network import Host, Network
from mpi_spp.forecast.sync import joints
from mpi_spp.launch.hostfile import read_hostfile
from mpi_spp.launch.launcher import find_launcher
from mpi_spp.launch.line import mpirun_line, request_here
from mpi_spp.parallel.mesh import mesh_of

NEW_TOKENS = 8
LONG = 50_000  # tokens: minutes of work
RUN_SECONDS = 90.0  # three ranks on the cores of a machine that may be busy; 8 to 12 on two free ones
TIMEOUT = 6  # seconds; while ranks start on a busy machine nothing moves for some
SECONDS_TO_END = 15.0
PATIENCE = None if ALL_START else 4.0  # seconds, in the place of the product's 20
SECONDS_OF_GUARD = 25.0  # at most: mpi_spp/launch/supervisor.py
SYNCS = [
    (joint.decode, sync) for joint in joints(mesh_of(None, 3)) for sync in joint.syncs if joint.prefill == "pipeline"
]


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It recites for minutes."""
    return reciting_model.build(tmp_path_factory.mktemp("models") / "long", max_position_embeddings=2 * LONG)


def launch(
    network: Network,
    *command: str,
    options: Sequence[str] = (),
    python: str = sys.executable,
    patience: float | None = None,
) -> list[str]:
    """The line of the documents, on the first host. `patience`: see mpi_spp/launch/supervisor.py; None: as it is."""
    words = ["launch", "--hostfile", str(network.hostfile), "--threads", "1", *options, "--", *command]
    program = [] if patience is None else [str(ROOT / "tests" / "impatient.py"), str(patience)]
    return network.hosts[0].line(*([python, *program, *words] if program else mpi_spp(*words, python=python)))


@pytest.fixture(scope="module")
def run_there(lasting_hosts: Network) -> Iterator[Callable[[list[str]], Ended]]:
    """A command on ranks that stay, one on each host, which were started as `launch` does it; with `--full`, by it."""

    def line(num_ranks: int, command: list[str]) -> list[str]:
        request = request_here(tuple(command), num_ranks, read_hostfile(str(lasting_hosts.hostfile)), threads=1)
        argv, variables = mpirun_line(request, find_launcher())
        return lasting_hosts.hosts[0].line("env", *(f"{name}={value}" for name, value in variables.items()), *argv)

    console = Console(3, line=line)
    if ALL_START:
        yield lambda words: run(launch(lasting_hosts, *words), timeout=RUN_SECONDS)
    else:
        yield lambda words: console.run(*words, timeout=RUN_SECONDS)
    console.close()


def answer(run_there: Callable[[list[str]], Ended], path: Path, *options: str) -> dict[str, Any]:
    """The report of a run of the default model over a real text."""
    expected = smollm2.reference()
    (path / "ids.json").write_text(json.dumps(expected["prompt_ids"]))
    lengths = ["--max-new-tokens", str(NEW_TOKENS), "--ignore-eos", "--prompt-ids", str(path / "ids.json")]
    model = ["--model", smollm2.NAME, "--dtype", "float32"]
    command = ["generate", *model, *lengths, *options, "--json", str(path / "out.json")]
    ended = run_there(command)
    assert ended.status == 0, ended.stderr
    told: dict[str, Any] = json.loads((path / "out.json").read_text())
    assert told["token_ids"] == expected["token_ids"][:NEW_TOKENS]
    assert [rank["host"] for rank in told["ranks"]] == ["node1", "node2", "node3"]
    return told


@pytest.mark.parametrize(("decode", "sync"), SYNCS)
def test_the_tokens_are_those_of_one_rank(
    run_there: Callable[[list[str]], Ended], tmp_path: Path, decode: str, sync: str
) -> None:
    fixed = ["--chunk-size", "128", "--layer-split", "even"]  # nothing to measure
    told = answer(run_there, tmp_path, "--decode", decode, "--sync-strategy", sync, *fixed)
    assert all(sent > 0 for sent in (rank["kv_bytes_sent"] for rank in told["ranks"])) == (sync != "none")


def test_the_tokens_with_mpich(three_hosts: Network, tmp_path: Path) -> None:
    if "mpich" not in environments():
        pytest.skip("needs an environment with MPICH; bin/test --mpi both makes it")
    python = environments()["mpich"][1]
    answer(lambda words: run(launch(three_hosts, *words, python=python), timeout=RUN_SECONDS), tmp_path)


def test_hosts_that_all_have_a_network_of_the_same_address(three_hosts: Network, tmp_path: Path) -> None:
    """As machines with Docker do: without the option Open MPI tries to reach other hosts by it, and does not start."""
    for host in three_hosts.hosts:
        for words in ("add docker0 type bridge", "set docker0 up"):
            on_host(*host.line("ip", "link", *words.split()))
        on_host(*host.line("ip", "address", "add", "172.17.0.1/16", "dev", "docker0"))
    options = ["--interface", "eth0"]
    answer(lambda words: run(launch(three_hosts, *words, options=options), timeout=RUN_SECONDS), tmp_path)


def begin_long(network: Network, model: Path, *options: str, patience: float | None = None) -> Any:
    """A run in the middle of its decode."""
    lengths = ["--ignore-eos", "--max-new-tokens", str(LONG), "--prompt", "hi"]
    process = start(launch(network, "generate", "--model", str(model), *lengths, *options, patience=patience))
    try:
        assert read_some(process, timeout=RUN_SECONDS)
    except BaseException:
        end(process)
        raise
    return process


def left_running(hosts: list[Host]) -> list[int]:
    """What the job has left there, when that has had a moment to end."""
    deadline = time.monotonic() + 5
    while any(host.processes() for host in hosts) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [process for host in hosts for process in host.processes()]


def test_a_host_that_goes_down_ends_the_job(three_hosts: Network, long_model: Path) -> None:
    process = begin_long(three_hosts, long_model)
    three_hosts.hosts[1].power_off()
    ended = finish(process, time.monotonic(), SECONDS_TO_END)
    assert ended.status not in (0, 2)
    assert "node2" in ended.stderr
    assert left_running(three_hosts.hosts) == []


def test_a_host_that_is_cut_off_ends_the_job(three_hosts: Network, long_model: Path) -> None:
    """Nobody is told that packets are lost: the ranks wait in vain, and then their launcher does.

    Takes long: one wait follows the other, and with `--full` the launcher's is the product's own.
    """
    process = begin_long(three_hosts, long_model, "--timeout", str(TIMEOUT), patience=PATIENCE)
    lost = three_hosts.hosts[1]
    three_hosts.cut_off(lost)
    ended = finish(process, time.monotonic(), TIMEOUT + SECONDS_OF_GUARD + SECONDS_TO_END)
    assert ended.status not in (0, 2)
    assert "rank 0 (node1) has waited " in ended.stderr and "nothing is heard of rank 1 (node2)" in ended.stderr
    assert left_running([host for host in three_hosts.hosts if host != lost]) == []
    assert ranks_of(lost) == []


def ranks_of(host: Host) -> list[int]:
    return [process for process in host.processes() if b"mpi_spp" in Path(f"/proc/{process}/cmdline").read_bytes()]


def spoil(network: Network, how: str) -> str:
    """A host that will not do: its name."""
    if how == "unknown":
        return "node9"
    last = network.hosts[2]
    if how == "refuses":
        on_host(*last.line("mount", "--bind", "/dev/null", "/etc/ssh/authorized_keys"))
    else:
        network.cut_off(last)
    return last.name


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown", "Could not resolve hostname"),
        ("refuses", "Permission denied (publickey)"),
        ("silent", "connect to host node3 port 22"),
    ],
)
def test_a_host_that_cannot_be_reached_is_one_line(three_hosts: Network, how: str, reason: str) -> None:
    name = spoil(three_hosts, how)
    three_hosts.hostfile.write_text(f"node1\n{name}\n")
    ended = run(launch(three_hosts, "generate", "--model", "any", "--prompt", "hi"), timeout=SECONDS_TO_END)
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith(f"mpi-spp: error: --hostfile: {name} cannot be reached by ssh (")
    assert reason in ended.stderr
