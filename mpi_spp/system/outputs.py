"""Files that a user asks for: tried before the work that they are to hold, and whole or absent after it."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeGuard

from mpi_spp.errors import UserError

_TRIED = bytes(4096)  # a block: a full disk often takes an empty file


def require_writable(source: str, path: str | Path) -> None:
    """Raise UserError where a file could not be written; what is there stays as it is.

    `source`: how errors name it, such as "--json". A pipe must have a reader, which then has it until we end.
    """
    with _refused(source, path):
        mode = _mode(path)
        if mode is None or stat.S_ISREG(mode):
            _try_beside(os.path.realpath(path), mode is not None)
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(descriptor, b"")  # fails where no write can succeed
        if not stat.S_ISFIFO(mode):  # a reader would take its last writer's leaving for the end
            os.close(descriptor)


def require_name(source: str, path: str | Path | None) -> None:
    """Raise UserError for `-`, which stands for standard output elsewhere, and would be a file of that name here."""
    if str(path) == "-":
        raise UserError(f"{source}: - is standard output, which cannot take this; give a name")


@contextmanager
def written(source: str, path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into, which is in its place when the block ends well. Raises UserError as `require_writable`.

    What is no regular file, or is where our own output goes, is written as it comes.
    """
    with _refused(source, path):
        mode = _mode(path)
        if mode is None or (stat.S_ISREG(mode) and not _is_own_output(path)):
            with _replaced(os.path.realpath(path), mode) as file:
                yield file
        else:
            with open(path, "ab", opener=_opened) as file:
                yield file


def write_text(source: str, path: str | Path, text: str) -> None:
    """The whole text in UTF-8, or nothing. Raises UserError as `require_writable`."""
    with written(source, path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def require_different(made: Mapping[str, str | Path | None], read: Mapping[str, str | Path | None]) -> None:
    """Raise UserError where an option names a file to be made that another one names, to be made or read."""
    taken = {os.path.realpath(path): name for name, path in read.items() if _is_file(path)}
    for option, path in made.items():
        if _is_file(path):
            other = taken.setdefault(os.path.realpath(path), option)
            if other != option:
                raise UserError(f"{option}: {path} is {other} too; give another file")


def _is_file(path: str | Path | None) -> TypeGuard[str | Path]:
    """Whether it is one or could become one: no device or pipe, and no "-"."""
    try:
        return path is not None and str(path) != "-" and stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True
    except ValueError:
        return False


@contextmanager
def _refused(source: str, path: str | Path) -> Iterator[None]:
    """Whatever the system does not let us do is one line."""
    try:
        yield
    except OSError as error:
        why: object = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror or str(error)
    except ValueError as error:  # a name with a null byte, or with half a character
        why = error
    else:
        return
    named = str(path) or "an empty name"
    raise UserError(f"{source}: {named} cannot be written ({why}); give a file in a directory that you may write to")


def _mode(path: str | Path) -> int | None:
    """Of what is there, or of what a link there leads to; None: nothing. Raises OSError where nothing can be."""
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        if not name or os.path.basename(name) in ("", ".", ".."):
            raise
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return mode


def _is_own_output(path: str | Path) -> bool:
    found = os.stat(path)
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), found):
                return True
    return False


def _try_beside(target: str, is_there: bool) -> None:
    if is_there:
        os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC))  # one that is read-only stays as it is
    part = _part(target, is_there)
    if part is not None:
        with _removed(part[1]), open(part[0], "wb") as file:
            file.write(_TRIED)


@contextmanager
def _replaced(target: str, mode: int | None) -> Iterator[BinaryIO]:
    """A new file beside it, which takes its place at the end; where there can be none, the file itself."""
    if mode is not None:
        os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC))
    part = _part(target, mode is not None)
    if part is None:
        with open(target, "wb") as file:
            yield file
        return
    descriptor, name = part
    with _removed(name):
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            yield file
        _put_in_place(name, target)


def _put_in_place(part: str, target: str) -> None:
    try:
        os.replace(part, target)
    except OSError as error:
        if error.errno != errno.EBUSY:  # a file that is mounted by itself, as containers have it
            raise
        shutil.copyfile(part, target)


def _part(target: str, is_there: bool) -> tuple[int, str] | None:
    """A new file in the same directory, opened, and its name; None where only the file that is there can be written."""
    name = os.path.join(os.path.dirname(target), f".mpi-spp-{secrets.token_hex(8)}")
    try:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), name
    except OSError as error:
        if is_there and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return None
        raise


@contextmanager
def _removed(name: str) -> Iterator[None]:
    """A file that is gone at the end, if it is still there."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _opened(path: str, flags: int) -> int:
    """Opened without waiting for a reader; what is written then may wait for it."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor
