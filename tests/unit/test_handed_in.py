"""Standard input and `<(...)` reach rank 0, whatever launcher there is between."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.launch import handed_in as module
from mpi_spp.launch.handed_in import handed_in, keep_for_rank_0, refuse_elsewhere
from mpi_spp.launch.hostfile import Host


@pytest.fixture
def pipe() -> Iterator[str]:
    """As a shell passes `<(printf hello)`."""
    reading, writing = os.pipe()
    os.write(writing, b"hello")
    os.close(writing)
    yield f"/dev/fd/{reading}"
    os.close(reading)


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/dev/fd/63", "/proc/self/fd/7"])
@pytest.mark.parametrize("name", ["prompt_file", "prompt_ids", "document", "questions", "input"])
def test_what_no_rank_could_open(name: str, path: str) -> None:
    assert handed_in({name: Path(path), "prompt": "-", "json": "-", "output": path}) == {
        f"--{name.replace('_', '-')}": path
    }


def test_other_files_are_the_ranks_own() -> None:
    assert handed_in({"prompt_file": "/dev/shm/x", "document": "-x", "input": None, "questions": "/dev/fd/1/x"}) == {}


def test_rank_0_finds_it_and_nobody_later(pipe: str) -> None:
    option, path = keep_for_rank_0({"--document": pipe})
    assert option == "--document" and os.stat(path).st_mode & 0o077 == 0
    rank = subprocess.run(
        ["cat", path], capture_output=True, check=True, timeout=10
    )  # all other descriptors are closed
    assert rank.stdout == b"hello"
    os.close(int(Path(path).name))
    assert not os.path.exists(path)


def test_what_cannot_be_kept_is_one_line(pipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--input: /dev/fd/99999 cannot be read \(No such file"):
        keep_for_rank_0({"--input": "/dev/fd/99999"})
    monkeypatch.setattr(module, "_MOST_BYTES", 4)
    with pytest.raises(UserError, match=r"--input: /dev/fd/.* has more than"):
        keep_for_rank_0({"--input": pipe})


def test_where_rank_0_is_elsewhere() -> None:
    files, here, there = {"--input": "-"}, Host("localhost", 1), Host("node2", 1)
    refuse_elsewhere(files, (), False)
    refuse_elsewhere(files, (here, there), False)
    refuse_elsewhere({}, (there, here), True)
    with pytest.raises(UserError, match="--input: - cannot be read on node2, where rank 0 runs"):
        refuse_elsewhere(files, (there, here), False)
    with pytest.raises(UserError, match="--input: - cannot be read by a job that starts later"):
        refuse_elsewhere(files, (), True)
