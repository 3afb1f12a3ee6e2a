"""The doctor on real ranks, with real defects: two MPIs, too many threads, a small /dev/shm, a missing model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks
from mpirun import Ended, mpi_spp, mpirun, run

from mpi_spp.launch.launcher import find_launcher
from mpi_spp.launch.placement import cores_here
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.system.units import counted

TIMEOUT_SECONDS = 120  # on two free cores each takes a few; loading torch on busy ones takes long
SMALL_SHM = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"', "sh")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder whose store has a model, "reciting", and the kernels that were compiled for all tests."""
    directory = tmp_path_factory.mktemp("cache")
    (directory / "kernels").symlink_to(cache_directory() / "kernels")
    reciting_model.build(directory / "models" / "reciting")
    return directory


def launch(*arguments: str, before: Sequence[str] = (), **settings: Any) -> Ended:
    return run([*before, *mpi_spp("launch", *arguments)], TIMEOUT_SECONDS, **settings)


def asked_with_caches(ranks: Ranks, *folders: Path) -> Ended:
    """Each rank has its own cache folder, as on hosts that have disks of their own."""
    words = ["doctor", "--model", "reciting", "--json", "-"]
    return ranks.run_different([words] * len(folders), variables=[{"MPI_SPP_CACHE": str(path)} for path in folders])


def findings(ended: Ended) -> list[dict[str, Any]]:
    assert ended.stdout.startswith("["), ended.stderr
    told: list[dict[str, Any]] = json.loads(ended.stdout)
    assert ended.status == int(any(finding["level"] == "failure" for finding in told))
    assert all(set(finding) == {"id", "level", "hosts", "ranks", "what", "do"} for finding in told)
    return told


def of(ended: Ended, id: str) -> dict[str, Any]:
    (finding,) = [finding for finding in findings(ended) if finding["id"] == id]
    return finding


def test_a_job_to_which_nothing_is_wrong(cache: Path) -> None:
    words = ("doctor", "--model", "reciting", "--json", "-")
    ended = launch("-np", "2", "--", *words, variables={"MPI_SPP_CACHE": str(cache)})
    assert ended.status == 0, ended.stdout
    assert of(ended, "launcher")["ranks"] == [0, 1]
    assert "1 of them weights" in of(ended, "model")["what"]
    assert "MB/s between ranks 0, 1" in of(ended, "link")["what"]
    assert of(ended, "memory")["level"] == "ok"


def test_one_process_shows_a_table(alone: Ranks) -> None:
    ended = alone.run("doctor")
    assert ended.status == 0, ended.stdout
    for part in ("finding", "launcher", "/dev/shm", "0 failure"):
        assert part in ended.stdout, part
    assert ended.stderr == ""


def test_bad_options(alone: Ranks) -> None:
    ended = alone.run("doctor", "--threads", "0")
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1)


def other_python() -> str:
    """The Python of an environment beside this one, with another MPI."""
    here = Path(sys.prefix).resolve()
    for name in (".venv", ".venv-mpich"):
        python = here.parent / name / "bin" / "python"
        if python.parent.parent != here and python.exists():
            return str(python)
    pytest.skip("there is no environment with another MPI beside this one (bin/test --mpi both makes it)")


@pytest.mark.parametrize("ours_launches", [True, False], ids=["our launcher", "their launcher"])
def test_two_mpis_are_mixed(ours_launches: bool) -> None:
    theirs = other_python()
    launcher = find_launcher() if ours_launches else find_launcher(prefix=str(Path(theirs).parent.parent))
    python = theirs if ours_launches else sys.executable
    ended = run(mpirun(3, mpi_spp("doctor", "--json", "-", python=python), launcher), TIMEOUT_SECONDS)
    finding = of(ended, "launcher")
    assert finding["level"] == "failure" and "the launcher started 3 ranks" in finding["what"] and finding["do"]
    assert ended.status == 1


def test_threads_are_oversubscribed(console: Ranks) -> None:
    cores = len(cores_here())
    finding = of(console.run("doctor", "--threads", str(cores), "--json", "-"), "oversubscribed")
    assert finding["level"] == "warning" and finding["ranks"] == [0, 1, 2]
    assert f"3 ranks with {3 * cores} threads together share {counted(cores, 'core')}" in finding["what"]


def test_a_small_dev_shm() -> None:
    if subprocess.run([*SMALL_SHM, "true"], capture_output=True, timeout=10).returncode:
        pytest.skip("this machine does not let a process have a /dev/shm of its own")
    ended = launch("-np", "3", "--", "doctor", "--json", "-", before=SMALL_SHM)
    finding = of(ended, "shm")
    assert finding["level"] in ("warning", "failure")
    assert "4 MiB free in /dev/shm" in finding["what"] and "remount" in finding["do"]


def test_a_model_is_missing_for_one_rank(cache: Path, tmp_path: Path, console: Ranks) -> None:
    """As on hosts that have disks of their own."""
    finding = of(asked_with_caches(console, cache, tmp_path, cache), "model")
    assert (finding["level"], finding["ranks"]) == ("failure", [1])
    assert "--model: reciting is neither" in finding["what"] and finding["hosts"] and finding["do"]


def test_a_model_differs_for_one_rank(cache: Path, tmp_path: Path, console: Ranks) -> None:
    other = Path(shutil.copytree(cache, tmp_path / "cache"))
    path = other / "models" / "reciting" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    ended = asked_with_caches(console, cache, other, cache)
    assert of(ended, "model-files")["ranks"] == [1]
    assert "is corrupt or truncated" in of(ended, "model")["what"]
