"""The output of a batch: in order, gone on with after a cut, and never written over what is something else."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from full_disk import files_no_larger_than
from hypothesis import given
from hypothesis import strategies as st

from mpi_spp.batch.fingerprint import made_of
from mpi_spp.batch.output import Output, resume_file
from mpi_spp.batch.work import Work, groups_of
from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.request import Request

MADE = {"--input": "sha256 1", "--model": "m"}
NUMBERS = [1, 2, 4]


def close(output: Output) -> None:
    """As the end of its process does."""
    output._file.close()


def written(path: Path, count: int, **extra: Any) -> bytes:
    """An output with so many lines."""
    output = Output(path, MADE, NUMBERS)
    for number in NUMBERS[:count]:
        output.append({"line": number, "text": "é😀"} | extra)
    close(output)
    return path.read_bytes()


@pytest.mark.parametrize("torn", [b"", b'{"li', b'{"line": 4, "text": "\xc3', b"{"])
def test_a_run_goes_on_after_the_last_whole_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "out"
    whole = written(path, 2)
    path.write_bytes(whole + torn)
    output = Output(path, MADE, NUMBERS)
    assert (output.kept, output.failed) == (2, 0)
    output.append({"line": 4})
    close(output)
    assert path.read_bytes() == whole + b'{"line": 4}\n'


def test_a_torn_first_line(tmp_path: Path) -> None:
    written(tmp_path / "out", 0)
    (tmp_path / "out").write_bytes(b'{"lin')
    assert Output(tmp_path / "out", MADE, NUMBERS).kept == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_lines_that_were_skipped_are_still_counted(tmp_path: Path) -> None:
    written(tmp_path / "out", 3, error="is not JSON")
    assert Output(tmp_path / "out", MADE, NUMBERS).failed == 3


def test_an_empty_output_is_begun_anew(tmp_path: Path) -> None:
    """Whatever run it was of."""
    written(tmp_path / "out", 0)
    close(Output(tmp_path / "out", {"--input": "another"}, NUMBERS))
    assert written(tmp_path / "out", 1)


def refused(path: Path, made: dict[str, str], numbers: Sequence[int]) -> str:
    """What is said; the file must be as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError) as error:
        Output(path, made, numbers)
    assert before == (path.read_bytes() if path.is_file() else None)
    return str(error.value)


@pytest.mark.parametrize(
    "made, numbers, says",
    [
        (MADE | {"--input": "sha256 2"}, NUMBERS, "was written with another --input (sha256 1, now sha256 2)"),
        (MADE | {"--seed": "7"}, NUMBERS, "was written with another --seed (None, now 7)"),
        (MADE, [1, 3, 4], "out:2 is not the answer that stands there"),
        (MADE, [1], "out:2 is not the answer that stands there"),
    ],
)
def test_the_output_of_something_else(tmp_path: Path, made: dict[str, str], numbers: list[int], says: str) -> None:
    written(tmp_path / "out", 2)
    assert says in refused(tmp_path / "out", made, numbers)


def test_files_that_no_batch_wrote(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("my thesis\n")
    assert "nothing says that this command wrote it" in refused(tmp_path / "out", MADE, NUMBERS)
    assert "cannot be written" in refused(tmp_path / "no" / "out", MADE, NUMBERS)
    assert "is no file" in refused(tmp_path, MADE, NUMBERS)


def test_two_runs_at_once(tmp_path: Path) -> None:
    first = Output(tmp_path / "out", MADE, NUMBERS)
    assert "is being written by another run" in refused(tmp_path / "out", MADE, NUMBERS)
    close(first)


def test_only_options_that_change_answers_count(tmp_path: Path) -> None:
    """What a later version adds counts unless it is named as one that does not."""
    config, lines = RunConfig(model="m"), [(1, b"{}")]
    made = made_of(config, tmp_path, lines)
    for same in ({"mesh": "dp=2"}, {"chunk_size": 7}, {"decode": "tensor"}, {"threads": 1}, {"json": "-"}):
        assert made_of(replace(config, **same), tmp_path, lines) == made
    for other in ({"max_new_tokens": 7}, {"system": "x"}, {"dtype": "float32"}, {"quantize": "int4"}, {"chat": False}):
        assert made_of(replace(config, **other), tmp_path, lines) != made
    assert made_of(config, tmp_path, [(1, b"{} ")]) == made
    assert made_of(config, tmp_path, [(2, b"{}")]) != made
    assert len(made) < len(fields(config))


def test_a_disk_that_is_full_keeps_whole_lines_and_ends_the_work(tmp_path: Path) -> None:
    path = tmp_path / "out"
    lines = [(number, b'{"prompt_ids": [1]}') for number in NUMBERS]
    output = Output(path, MADE, NUMBERS)
    work = Work(lines, groups_of(3, 1, 2), Ids(), output, lambda number, error: None)  # type: ignore[arg-type]
    ((first, _), (second, _)) = work.take()
    with files_no_larger_than(150):
        for place in (first, second):
            work.finish(place, [5, 9])
        assert work.take() == []
    assert output.lost is not None and "cannot be written (File too large); 1 line there" in str(output.lost)
    close(output)
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == [1]
    assert Output(path, MADE, NUMBERS).kept == 1


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9))
def test_groups_hold_every_line_once_and_go_round_evenly(count: int, replicas: int, most: int) -> None:
    groups = groups_of(count, replicas, most)
    assert [line for group in groups for line in group] == list(range(count))
    sizes = {len(group) for group in groups}
    assert max(sizes, default=1) <= most and max(sizes, default=0) - min(sizes, default=0) <= 1 and 0 not in sizes
    assert len(groups) % replicas == 0 or len(groups) == count


class Ids:
    """In place of the tokenizer and the model's limits."""

    def request(self, line: Any, stream: int) -> Request:
        return Request(line.prompt_ids, frozenset([9]), 2)

    def text(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


def test_answers_are_written_in_order_as_soon_as_none_before_is_missing(tmp_path: Path) -> None:
    told: list[tuple[int, str | None]] = []
    lines = [(1, b'{"prompt_ids": [5]}'), (2, b"nope"), (4, b'{"prompt_ids": [6, 7], "id": "a"}'), (5, b"{}")]
    work = Work(
        lines, [range(2), range(2, 4)], Ids(), Output(tmp_path / "out", MADE, [1, 2, 4, 5]), lambda *of: told.append(of)
    )
    assert [place for place, _ in work.take()] == [0]
    assert [place for place, _ in work.take()] == [2]
    assert work.take() == []
    work.finish(2, [8, 9])
    assert (tmp_path / "out").read_bytes() == b""
    work.finish(0, [8, 8])
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [answer["line"] for answer in answers] == [1, 2, 4, 5]
    assert answers[0] == {
        "line": 1,
        "id": None,
        "text": "8 8",
        "token_ids": [8, 8],
        "prompt_tokens": 1,
        "finish_reason": "length",
    }
    assert (answers[2]["id"], answers[2]["finish_reason"]) == ("a", "stop")
    assert answers[1]["error"].startswith("is not JSON") and "found: none" in answers[3]["error"]
    assert [number for number, _ in told] == [2, 5, 4, 1]
    assert (work.totals.answered, work.totals.skipped, work.totals.new_tokens) == (2, 2, 4)


@pytest.mark.parametrize("odd", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_resume_file_is_not_waited_for(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    path = tmp_path / "out"
    written(path, 1)
    resume_file(path).unlink()
    odd(resume_file(path))
    with pytest.raises(UserError, match="nothing says that this command wrote it"):
        Output(path, MADE, NUMBERS)
