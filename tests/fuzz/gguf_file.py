"""A GGUF file as values that can be changed one by one, and written again whatever they say.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass, field
from typing import Any

STRING, ARRAY, UINT32, FLOAT32 = 8, 9, 4, 6
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32 = 0


@dataclass
class Entry:
    """A key of the metadata. `kind`: of the value, or of the items of an array."""

    key: str
    kind: int
    value: Any
    count: int | None = None  # what an array says of its length, in place of what it has

    @property
    def is_array(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.value, list)


@dataclass
class Tensor:
    """What the header says of a tensor; the data of all lie behind it."""

    name: str
    dims: list[int]
    kind: int
    offset: int


@dataclass
class GgufFile:
    """All of a file. The counts stand in it in place of the true ones, where they are not None."""

    entries: list[Entry] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_entries: int | None = None
    alignment: int = 32


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.content, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.take("Q")
        self.at += length
        return self.content[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        return self.text() if kind == STRING else self.take(FORMATS[kind])


def read(content: bytes) -> GgufFile:
    """A good file."""
    reader = _Reader(content)
    reader.at = 8
    num_tensors, num_entries = reader.take("Q"), reader.take("Q")
    found = GgufFile()
    for _ in range(num_entries):
        key, kind = reader.text(), reader.take("I")
        if kind == ARRAY:
            kind, count = reader.take("I"), reader.take("Q")
            found.entries.append(Entry(key, kind, [reader.value(kind) for _ in range(count)]))
        else:
            found.entries.append(Entry(key, kind, reader.value(kind)))
    for _ in range(num_tensors):
        name, num_dims = reader.text(), reader.take("I")
        dims = [reader.take("Q") for _ in range(num_dims)]
        found.tensors.append(Tensor(name, dims, reader.take("I"), reader.take("Q")))
    start = -(-reader.at // found.alignment) * found.alignment
    found.data = content[start:]
    return found


def write(file: GgufFile) -> bytes:
    """The bytes, of anything."""
    num_tensors = len(file.tensors) if file.num_tensors is None else file.num_tensors
    num_entries = len(file.entries) if file.num_entries is None else file.num_entries
    head = file.magic + _packed("I", file.version) + _packed("Q", num_tensors) + _packed("Q", num_entries)
    head += b"".join(map(_entry, file.entries))
    for tensor in file.tensors:
        head += _text(tensor.name) + _packed("I", len(tensor.dims)) + b"".join(_packed("Q", dim) for dim in tensor.dims)
        head += _packed("I", tensor.kind) + _packed("Q", tensor.offset)
    return head + b"\0" * (-len(head) % file.alignment) + file.data


def _entry(entry: Entry) -> bytes:
    if not entry.is_array:
        return _text(entry.key) + _packed("I", entry.kind) + _value(entry.kind, entry.value)
    count = len(entry.value) if entry.count is None else entry.count
    head = _text(entry.key) + _packed("I", ARRAY) + _packed("I", entry.kind) + _packed("Q", count)
    return head + b"".join(_value(entry.kind, one) for one in entry.value)


def _value(kind: int, value: Any) -> bytes:
    """A value as this kind, as far as it can be."""
    if kind == STRING:
        return _text(value if isinstance(value, str) else str(value))
    code = FORMATS.get(kind, "I")
    number = value if isinstance(value, int | float) else len(value)
    if code in "fd":
        try:
            return struct.pack("<" + code, number)
        except OverflowError:
            return struct.pack("<" + code, float("inf"))
    return _packed(code, number)


def _packed(code: str, number: Any) -> bytes:
    """A whole number in so many bits, whatever is left of it."""
    if code == "?":
        return bytes([bool(number)])
    if number != number or number in (float("inf"), float("-inf")):
        number = 0
    size = struct.calcsize("<" + code)
    return (int(number) % 2 ** (8 * size)).to_bytes(size, "little")


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return _packed("Q", len(content)) + content
