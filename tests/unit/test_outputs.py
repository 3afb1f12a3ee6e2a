"""Files that a user asks for: see mpi_spp/system/outputs.py."""

import os
import stat
from pathlib import Path

import pytest
from full_disk import files_no_larger_than

from mpi_spp.cli import commands
from mpi_spp.errors import UserError
from mpi_spp.system.outputs import require_different, require_writable, write_text, written


def refused(path: str | Path) -> str:
    """By the trial before the work, and by the writing itself; nothing is left of either."""
    with pytest.raises(UserError) as before:
        require_writable("--json", path)
    with pytest.raises(UserError) as after:
        write_text("--json", path, "late")
    assert str(before.value) == str(after.value)
    return str(after.value)


@pytest.mark.parametrize(
    "name, says",
    [
        ("", "an empty name cannot be written (No such file"),
        (".", "Is a directory"),
        ("missing/out", "No such file"),
        ("missing/", "No such file"),
        ("file/out", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("n" * 300, "File name too long"),
        ("d/" * 3000, "File name too long"),
        ("half \ud83d", "surrogates not allowed"),
        ("nothing\0", "null byte"),
        ("/dev/full", "No space left on device"),
        ("pipe", "nobody reads this pipe"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    Path("file").write_text("")
    there = sorted(os.listdir())
    assert says in refused(name)
    assert sorted(os.listdir()) == there


def test_a_trial_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    require_writable("--json", path)
    assert not list(tmp_path.iterdir())
    path.write_text("before")
    require_writable("--json", path)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    with files_no_larger_than(1000), pytest.raises(UserError, match="File too large"):
        require_writable("--json", tmp_path / "out")
    with files_no_larger_than(5000):
        require_writable("--json", tmp_path / "out")
        with pytest.raises(UserError, match="File too large"):
            write_text("--json", tmp_path / "out", "a" * 5001)
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), written("--json", path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    write_text("--json", path, "after \udcff")
    assert path.read_text() == "after \\udcff" and len(list(tmp_path.iterdir())) == 1


def test_links_and_rights_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_text("--json", tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    write_text("--json", tmp_path / "other", "new")
    (tmp_path / "usual").write_text("new")
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_directory_that_takes_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one may write to the file alone, or it is mounted by itself."""
    path = tmp_path / "out"
    path.write_text("longer before")

    def refuse(*ignored: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("mpi_spp.system.outputs.os.replace", refuse)
    write_text("--json", path, "new")
    assert path.read_text() == "new"
    monkeypatch.setattr("mpi_spp.system.outputs._part", lambda *ignored: None)
    require_writable("--json", path)
    write_text("--json", path, "newer")
    assert path.read_text() == "newer" and len(list(tmp_path.iterdir())) == 1


def test_a_pipe_with_a_reader_keeps_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    require_writable("--json", pipe)
    with pytest.raises(BlockingIOError):  # not the end
        os.read(reader, 10)
    write_text("--json", pipe, "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)


def test_two_options_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    a, b, link = tmp_path / "out", tmp_path / "other", tmp_path / "link"
    require_different({"--json": "-", "--trace": None, "--plot": "/dev/null", "--output": "/dev/null"}, {})
    require_different({"--json": b, "--trace": None}, {"BEFORE": a, "AFTER": a, "half": "\ud83d", "--input": "-"})
    with pytest.raises(UserError, match=r"^--trace: .*link is --json too; give another file$"):
        require_different({"--json": a, "--trace": link}, {})
    with pytest.raises(UserError, match=r"^--json: .*out is --input too; give another file$"):
        require_different({"--json": a}, {"--input": link})


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "--model", "m", "--plot", "-"),
        ("trace", "plot", "run.json", "-"),
        ("bench", "comm", "--plot", "-"),
        ("batch", "--model", "m", "--input", "in", "--output", "-"),
        ("model", "convert", "m.gguf", "-"),
        ("generate", "--model", "m", "--prompt", "hi", "--trace", "-"),
        ("generate", "--model", "m", "--prompt", "hi", "--log-dir", "-"),
    ],
    ids=" ".join,
)
def test_a_dash_is_no_file_but_for_json(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a folder of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^(--[a-z-]+|PICTURE|DIRECTORY): (- is standard output|- has to end in)"):
        commands(list(words), standalone_mode=False)
    assert not list(tmp_path.iterdir())
