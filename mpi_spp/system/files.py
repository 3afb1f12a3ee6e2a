"""Files that a user names: read within limits of bytes and time, and whatever is wrong with one is one line."""

import json
import os
from pathlib import Path
from typing import IO, Any

from mpi_spp.errors import UserError

MIB = 2**20
MOST_CONFIG_BYTES = 16 * MIB  # of a JSON or hostfile that people write; the largest we know have less than a hundredth
MOST_TEXT_BYTES = 32 * MIB  # of a prompt or a document: several times what the longest contexts hold
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def read_bytes(source: str, path: str | Path, most_bytes: int, advice: str = "") -> bytes:
    """The content of a file or a pipe, `-` for standard input; of what never ends no more than the limit is read.

    `source`: how errors name it, such as "--prompt-file: story.txt"; `advice`: what they end with, such as "; give
    another". Raises UserError when it cannot be read or has more bytes.
    """
    if str(path) in STANDARD_INPUT and "PRTE_LAUNCHED" in os.environ:
        raise UserError(f"{source} never ends under Open MPI's own mpirun; start with `mpi-spp launch`, or give a file")
    try:
        with open(path, "rb", opener=_opened) as file:
            size = os.fstat(file.fileno()).st_size
            content = _read(file, most_bytes + 1) if size <= most_bytes else b""
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}){advice}") from None
    except ValueError as error:  # a name with a null byte, or with half a character
        raise UserError(f"{source} cannot be read ({error}){advice}") from None
    if max(size, len(content)) > most_bytes:
        raise UserError(f"{source} has more than {most_bytes // MIB} MiB, the most that is read{advice}")
    return content


def read_beginning(source: str, path: str | Path, count: int = 64) -> bytes:
    """The first bytes of a file, by which to tell what it is. Raises UserError when it cannot be read."""
    try:
        with open(path, "rb", opener=_opened) as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror})") from None


def read_text(source: str, path: str | Path, most_bytes: int = MOST_TEXT_BYTES, advice: str = "") -> str:
    """UTF-8 without the mark that some editors put first, its lines ended as here. Raises UserError as `read_bytes`."""
    content = read_bytes(source, path, most_bytes, advice)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 (byte {error.start}); convert it") from None


def read_json(source: str, path: str | Path, most_bytes: int = MOST_CONFIG_BYTES, advice: str = "") -> Any:
    """What a file of JSON holds, of any type. Raises UserError as `read_text`."""
    return parse_json(source, read_text(source, path, most_bytes, advice), advice)


def read_json_object(source: str, path: str | Path, most_bytes: int = MOST_CONFIG_BYTES, advice: str = "") -> Any:
    """A JSON object as a dict. Raises UserError as `read_text`."""
    found = read_json(source, path, most_bytes, advice)
    if not isinstance(found, dict):
        raise UserError(f"{source} holds no JSON object, but {json_type(found)}{advice}")
    return found


def parse_json(source: str, text: str, advice: str = "") -> Any:
    """A text as JSON. Raises UserError for what is none, is nested too deeply or has a number of too many digits."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{source} is JSON that is nested too deeply{advice}") from None
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}){advice}") from None


def json_type(value: Any) -> str:
    """The name of a value's type as JSON has it, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _read(file: IO[bytes], most_bytes: int) -> bytes:
    """As file.read, which would ask for that much memory before it knows how little there is."""
    pieces, left = [], most_bytes
    while left and (piece := file.read(min(left, MIB))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _opened(path: str, flags: int) -> int:
    """Opened without waiting for somebody who would write into a pipe: without one it is empty."""
    if path == "-":
        return os.dup(0)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor
