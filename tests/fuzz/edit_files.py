"""Changes of files that know nothing of what is in them: cut, overwritten, replaced by what is no file."""

import os
from pathlib import Path
from random import Random

from case import Room, remove

_GIB = 2**30


def spoil(room: Room, path: Path, rng: Random) -> str:
    """Change a file in one way; what was done."""
    done = rng.choice((cut, overwrite, insert, encode, replace))(room, path, rng)
    return f"{path.name}: {done}"


def cut(room: Room, path: Path, rng: Random) -> str:
    """Without its end."""
    content = content_of(path)
    length = rng.choice((0, 1, 7, 8, len(content) // 2, max(0, len(content) - 1), rng.randrange(len(content) + 1)))
    room.write(path, content[:length])
    return f"cut to {length} of {len(content)} bytes"


def overwrite(room: Room, path: Path, rng: Random) -> str:
    """With other bytes in a few places."""
    content = bytearray(content_of(path))
    for _ in range(rng.choice((1, 1, 3, 20)) if content else 0):
        content[rng.randrange(min(len(content), rng.choice((16, 4096, len(content)))))] = rng.randrange(256)
    room.write(path, bytes(content))
    return "some bytes overwritten"


def insert(room: Room, path: Path, rng: Random) -> str:
    """With bytes that were not there."""
    content = content_of(path)
    place = rng.choice((0, len(content), rng.randrange(len(content) + 1)))
    added = rng.choice(
        (b"\0", b"\xff", b"{", b"]", b'"', b"\n", b"\xef\xbb\xbf", b"garbage", b"\0" * 5000, b"[" * 100_000)
    )
    room.write(path, content[:place] + added + content[place:])
    return f"{added[:8]!r} ({len(added)} bytes) at {place}"


def encode(room: Room, path: Path, rng: Random) -> str:
    """The same text in another encoding."""
    text = content_of(path).decode("utf-8", "replace")
    encoding = rng.choice(("utf-16", "utf-8-sig", "utf-32", "utf-16-le"))
    room.write(path, text.encode(encoding, "replace"))
    return f"in {encoding}"


def content_of(path: Path, most: int = 2**22) -> bytes:
    """What is in a file, or its beginning; nothing for what is no file any more."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


def replace(room: Room, path: Path, rng: Random) -> str:
    """By something that is no such file."""
    kind = rng.choice(
        ("missing", "folder", "FIFO", "loop", "dangling", "empty", "spaces", "sparse", "/dev", "/dev", "mode 0")
    )
    if kind == "mode 0":
        room.write(path, content_of(path))
        path.chmod(0)
        return kind
    remove(path)
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind in ("loop", "dangling"):
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    elif kind in ("empty", "spaces"):
        path.write_text(" \n" * 100 if kind == "spaces" else "")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(rng.choice((40 * 2**20, 3 * _GIB)))
        return f"{path.stat().st_size} null bytes"
    elif kind == "/dev":
        kind = rng.choice(("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/proc/self/mem", "/dev/stdin"))
        path.symlink_to(kind)
    return f"replaced: {kind}"
