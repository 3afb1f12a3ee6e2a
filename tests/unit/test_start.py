"""No file of the folder that one stands in takes the place of a module, however the program is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpi_spp.system import start

ROOT = Path(__file__).parents[2]
NAMES = (
    "json",
    "random",
    "queue",
    "inspect",
    "dis",
    "ctypes",
    "torch",
    "numpy",
    "tokenizers",
    "click",
    "sitecustomize",
)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with files of the names of modules, which say that they were run."""
    for name in (*NAMES, "usercustomize"):
        (tmp_path / f"{name}.py").write_text(f"import os; os.write(2, b'{name} was run'); os._exit(9)")
    (tmp_path / "any.pth").write_text("import os; os._exit(9)")
    return tmp_path


def run(argv: list[str], cwd: Path, python_path: str = str(ROOT)) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": python_path}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["", "mpi_spp.launch.placement"], ids=["the program", "a module"])
def test_the_words_start_these_files_from_anywhere(module: str, trap: Path) -> None:
    """Also where another copy of the package lies, and without a word where this one is."""
    (trap / "mpi_spp").mkdir()
    (trap / "mpi_spp" / "__init__.py").write_text("import os; os._exit(9)")
    rest = ["model", "list", "--json", "-"] if not module else ["echo", '{"available": 1}']
    done = run([*start.words(module), *rest], trap, "")
    assert (done.returncode, done.stderr) == (0, "") and "available" in done.stdout


def test_python_m(trap: Path) -> None:
    done = run([sys.executable, "-m", "mpi_spp", "model", "list"], trap)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_this_package_hide_none_of_python() -> None:
    """Its folder is first on the path for a moment when Python starts it."""
    assert {path.stem for path in (ROOT / "mpi_spp").iterdir()}.isdisjoint(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "given, kept",
    [
        ("", None), (":", None), (".", None), (":/a", "/a"), ("/a::/b:", "/a:/b"), ("./:/a:./.", "/a"),
        ("/a:src", "/a:src"), ("{here}", "{here}"), (":{here}", "{here}"),
    ],
)  # fmt: skip
def test_empty_entries_mean_the_working_directory_and_go(
    given: str, kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH"):
        monkeypatch.setenv(name, given.format(here=tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/a", "/lib/python"])  # as Python has read an empty entry
    start.leave_working_directory_out()
    expected = None if kept is None else kept.format(here=tmp_path)
    assert [os.environ.get(name) for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH")] == [expected] * 3
    assert (str(tmp_path) in sys.path) == ("here" in given or given == "/a:src") and sys.path[-2:] == [
        "/a",
        "/lib/python",
    ]


def test_a_working_directory_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    program = f"import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, {[*start.words(), 'model', 'list']})"
    done = run([sys.executable, "-c", program], tmp_path / "gone")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mpi-spp: error: the working directory was deleted; change to another one\n"


@pytest.mark.parametrize("home", [None, "", "/a/home"])
def test_a_home_that_nobody_names_is_the_root(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without a name in a container."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    start.ensure_folders()
    assert os.environ["HOME"] == (home or "/")


def test_a_temporary_directory_of_no_use_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory, is_kept in ((tmp_path, True), (tmp_path / "absent", False), (Path("/proc/1"), False)):
        monkeypatch.setenv("TMPDIR", str(directory))
        start.ensure_folders()
        assert ("TMPDIR" in os.environ) == is_kept
