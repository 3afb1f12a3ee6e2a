"""Files that a user names: see mpi_spp/system/files.py."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.system.files import read_bytes, read_json, read_json_object, read_text


def refused(path: Path | str, most_bytes: int = 1000) -> str:
    with pytest.raises(UserError) as error:
        read_json_object(f"--file: {str(path)!r}", path, most_bytes)
    return str(error.value)


def test_a_file_is_read_to_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + b"a" * 997)
    assert read_bytes("--file", tmp_path / "file", 1000)[3:] == b"a" * 997
    assert read_text("--file", tmp_path / "file", 1000) == "a" * 997
    assert "more than" in refused(tmp_path / "file", 999)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device_that_never_ends(device: str) -> None:
    assert "more than" in refused(device)


def test_an_empty_one() -> None:
    assert read_bytes("--file", "/dev/null", 10) == b""
    assert "is not JSON" in refused("/dev/null")


def test_a_pipe_that_nobody_writes_into_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_bytes("--file", tmp_path / "pipe", 10) == b""


def test_a_pipe_is_waited_for() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        time.sleep(0.2)
        os.write(writing, b"late")
        os.close(writing)

    threading.Thread(target=write).start()
    assert read_bytes("--file", f"/dev/fd/{reading}", 10) == b"late"
    os.close(reading)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", "Is a directory"),
        ("absent", "No such file"),
        ("a/b", "No such file"),
        ("x" * 5000, "File name too long"),
        ("null\0byte", "null byte"),
        ("half \ud800 character", "surrogates not allowed"),
    ],
)
def test_names_that_cannot_be_opened(tmp_path: Path, name: str, said: str) -> None:
    assert said in refused(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8 (byte 0)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 100_000, "is not JSON"),
        (b"[1]", "no JSON object, but a list"),
        (b"1", "no JSON object, but a number"),
        (b"true", "no JSON object, but true or false"),
        (b"null", "no JSON object, but null"),
        (b'"a"', "no JSON object, but a text"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert said in refused(tmp_path / "file", 10**6)


def test_json_of_any_type(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(json.dumps([1, None]))
    assert read_json("--file", tmp_path / "file") == [1, None]


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_standard_input_that_never_ends_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that which Open MPI 5 gives to a rank."""
    read_bytes("--file", path, 10)
    monkeypatch.setenv("PRTE_LAUNCHED", "1")
    with pytest.raises(UserError, match=f"--file: {path} never ends under Open MPI's own mpirun; start with"):
        read_bytes(f"--file: {path}", path, 10)


def test_a_dash_is_standard_input() -> None:
    program = "from mpi_spp.system.files import read_text; print(read_text('--file', '-'))"
    done = subprocess.run([sys.executable, "-c", program], input=b"hello", capture_output=True, timeout=10)
    assert done.stdout == b"hello\n"


def test_lines_end_as_here_whatever_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\nb\rc\n")
    assert read_text("--file", tmp_path / "file") == "a\nb\nc\n"
