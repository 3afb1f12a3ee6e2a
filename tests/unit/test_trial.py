"""A back end that raises, is wrong, crashes or hangs is found out, and takes nothing with it."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mpi_spp.kernels import trial
from mpi_spp.kernels.backends import NATIVE
from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.library import NoKernels

# In the place of a norm that works.
NORM = """
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
void rms_norm(void) {
  const char *how = getenv("TEST_NORM");
  if (how && *how == 'c') raise(SIGILL);
  if (how && *how == 'h') for (;;) pause();
}
"""
COMPILER = """#!/bin/sh
case "$*" in
  *-shared*) exec gcc "$@" -fPIC {norm} ;;
  *) exec gcc -Drms_norm=the_norm_that_works "$@" ;;
esac
"""


@pytest.fixture(autouse=True)
def loaded_anew() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_what_works_works_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    """The others are tried though one of them ends the process."""
    results = trial.results_of(["widened", "no-such-kernels", "blockwise"], torch.bfloat16, tmp_path)
    assert results["widened"] == results["blockwise"] == trial.WORKS
    assert "no-such-kernels" in results["no-such-kernels"]


@pytest.fixture(scope="module")
def broken_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A variant's name, and a directory where its norm does what TEST_NORM says, or nothing."""
    if not library.runnable() or shutil.which("gcc") is None:
        pytest.skip("needs a CPU with AVX2, and gcc")
    directory, name = tmp_path_factory.mktemp("kernels"), library.runnable()[-1]
    (directory / "norm.c").write_text(NORM)
    (directory / "compiler").write_text(COMPILER.format(norm=directory / "norm.c"))
    (directory / "compiler").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(directory / "compiler"))
        library.load.cache_clear()
        library.load(name, directory)
        yield f"{NATIVE}-{name}", directory


@pytest.mark.parametrize(
    "how, says", [("wrong", "a norm of 1 rows is wrong"), ("crash", "ended by SIGILL"), ("hang", "did not end within")]
)
def test_kernels_that_are_broken(
    how: str, says: str, broken_kernels: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, directory = broken_kernels
    monkeypatch.setenv("TEST_NORM", how)
    if how == "hang":
        monkeypatch.setattr(trial, "_SECONDS", 8)
    assert says in trial.results_of([name], torch.bfloat16, directory)[name]


@pytest.mark.parametrize("place", ["/dev/null/no", "/proc/no"])
def test_a_folder_that_cannot_be_made_keeps_none_of_torch_from_working(place: str) -> None:
    assert trial.result_of("plain", torch.float32, Path(place, "kernels")) == trial.WORKS


def test_a_trial_that_hangs_does_not_outlive_who_asked_for_it(
    broken_kernels: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed as soon as its trial has begun."""
    name, directory = broken_kernels
    monkeypatch.setenv("TEST_NORM", "hang")
    asks = "from mpi_spp.kernels import trial; import pathlib, sys, torch; "
    asks += "trial.results_of([sys.argv[2]], torch.bfloat16, pathlib.Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", asks, str(directory), name]) as asking:
        await_that(lambda: trials_in(directory, besides=asking.pid))
        asking.kill()
    await_that(lambda: not trials_in(directory, besides=asking.pid))


def trials_in(directory: Path, besides: int) -> list[int]:
    """Processes whose command names this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(directory).encode() in words and int(process.name) != besides:
                found.append(int(process.name))
    return found


def await_that(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    assert "no process" in trial.results_of(["plain"], torch.float32, tmp_path)["plain"]


def test_no_file_of_the_working_directory_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    for name in ("json.py", "random.py", "torch.py", "mpi_spp.py"):
        (tmp_path / "here" / name).write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path / "here")
    assert trial.results_of(["plain"], torch.float32, tmp_path / "kernels") == {"plain": trial.WORKS}


@pytest.mark.parametrize("name", library.VARIANTS)
def test_kernels_of_a_better_processor_are_never_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a folder that is shared by machines of two kinds holds them."""
    monkeypatch.setattr("mpi_spp.system.cpu.features", lambda: frozenset({"sse2", "avx"}))
    monkeypatch.setattr("ctypes.CDLL", None)
    with pytest.raises(NoKernels, match=r"this CPU has no \w"):
        library.load(name, tmp_path)
    assert library.runnable() == []


def test_float32_is_not_slower_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine once found it 3 times slower, and refused to compute at all."""
    monkeypatch.setattr(trial, "_times_slower", lambda backend, dtype: 3.0)
    assert trial.result_of("plain", torch.float32, tmp_path) == trial.WORKS
    assert "3 times slower than float32 here" in trial.result_of("plain", torch.bfloat16, tmp_path)
