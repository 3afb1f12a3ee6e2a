"""The file of answers: written in the order of the input, and gone on with after a run that was cut off."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.system.files import read_json
from mpi_spp.system.outputs import write_text
from mpi_spp.system.units import counted

Made = Mapping[str, str]  # by option: what the answers were made of


def resume_file(output: Path) -> Path:
    """Beside the answers: what they were made of."""
    return Path(f"{output}.resume")


class Output:
    """Whole lines only. What they were made of stands in a file beside it, NAME.resume, so that no two runs mix.

    `kept` answers are there already, of which `failed` are errors. A last line that was cut off is removed. Raises
    UserError, and changes nothing, where going on would spoil what is there. `lost`: why a line could not be written,
    and none behind it.
    """

    def __init__(self, path: Path, made: Made, numbers: Sequence[int]) -> None:
        self._path = path
        try:
            self._file = self._open()
        except OSError as error:
            raise UserError(f"--output: {path} cannot be written ({error.strerror}); give a file that can") from None
        self.kept = self.failed = self._written = 0
        self.lost: UserError | None = None
        self._resume(made, numbers)

    def append(self, answer: Mapping[str, Any]) -> None:
        """Write one line, whole and at once, unless one before it could not be."""
        if self.lost is not None:
            return
        line = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        end = self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(end)
            kept = counted(self.kept + self._written, "line")
            self.lost = UserError(
                f"--output: {self._path} cannot be written ({error.strerror}); {kept} there, and the same"
                " command goes on when it can be"
            )
        else:
            self._written += 1

    def _open(self) -> FileIO:
        if self._path.exists() and not self._path.is_file():
            raise UserError(f"--output: {self._path} is no file; give one, so that the run can be gone on with")
        file = self._path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output: {self._path} is being written by another run; wait for its end") from None
        except OSError:
            pass  # a file system without locks
        return file

    def _resume(self, made: Made, numbers: Sequence[int]) -> None:
        beside = resume_file(self._path)
        if self._path.stat().st_size > 0:
            self._require_same(beside, made)
            self._file.truncate(self._read_kept(numbers))
        else:
            write_text("--output", beside, json.dumps(made, indent=1) + "\n")
        self._file.seek(0, os.SEEK_END)

    def _require_same(self, beside: Path, made: Made) -> None:
        try:
            before = read_json("--output", beside)
        except UserError:
            before = None
        if not isinstance(before, dict):
            raise UserError(
                f"--output: {self._path} is there already, and nothing says that this command wrote it ({beside.name}"
                " beside it would); remove it, or give another file"
            )
        for option in sorted({*before, *made}):
            if before.get(option) != made.get(option):
                raise UserError(
                    f"--output: {self._path} was written with another {option} ({before.get(option)}, now"
                    f" {made.get(option)}); give the same to go on with it, or give another file"
                )

    def _read_kept(self, numbers: Sequence[int]) -> int:
        """Count the whole lines, and return how many bytes they are."""
        size = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                answer = _answer_in(line)
                if self.kept == len(numbers) or answer.get("line") != numbers[self.kept]:
                    raise UserError(
                        f"--output: {self._path}:{self.kept + 1} is not the answer that stands there by the order of"
                        " the input; remove the file, or give another"
                    )
                self.kept += 1
                self.failed += "error" in answer
                size += len(line)
        return size


def _answer_in(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
