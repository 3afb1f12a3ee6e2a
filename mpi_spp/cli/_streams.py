"""Standard output and error as they may be found: closed, full, or with a reader that has left."""

import errno
import io
import os
import sys
from typing import Any, TextIO

from mpi_spp.errors import UserError

_SIGPIPE_STATUS = 141  # what shells make of a program that SIGPIPE has ended


class OutputLost(Exception):
    """Standard output takes no more. `status`: to leave with."""

    def __init__(self, error: OSError) -> None:
        self.reader_has_left = error.errno == errno.EPIPE
        self.status = _SIGPIPE_STATUS if self.reader_has_left else 2
        super().__init__(f"standard output cannot be written ({error.strerror})")


class _Answers(io.FileIO):
    """The first write that fails raises OutputLost; what comes then is dropped, so that it fails once."""

    lost = False

    def write(self, data: Any) -> int:
        if self.lost:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self.lost = True
            raise OutputLost(error) from None


class _Reports(io.FileIO):
    """Reports that nobody can read are no reason to end the work."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def take_streams() -> None:
    """Make sure that all three are open, lest a file that is opened later gets their number, and fail as said above.

    A terminal that has no sign for a character shows `?`; an answer must not end with an error for that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed; writing to standard output fails as before, since the device is opened to be read
            os.open(os.devnull, os.O_RDWR if number == 2 else os.O_RDONLY)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_Answers(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Reports(2, "w", closefd=False), sys.stderr)


def require_stdout() -> None:
    """Raise UserError where nothing could be written to standard output."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # something of a program that calls us
    try:
        os.write(descriptor, b"")
    except OSError as error:
        raise UserError(f"{OutputLost(error)}; send it to a file, or to /dev/null") from None


def _stream(raw: io.FileIO, before: TextIO | None) -> TextIO:
    encoding, unbuffered = ("utf-8", False) if before is None else (before.encoding, before.write_through)  # type: ignore[attr-defined]
    lines = raw.fileno() == 2 or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="replace", line_buffering=lines, write_through=unbuffered
    )
