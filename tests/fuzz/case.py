"""A case of the fuzzer: a room of its own with files, a command, and what its answer must be."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# What the commands of cases end with: one thread, nothing to measure before the first token.
QUICK = ("--dtype", "float32", "--kernels", "plain", "--threads", "1", "--chunk-size", "16", "--layer-split", "even")
TRIALS = 4.0  # the patience with what tries the machine's arithmetic anew, in a process of its own


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `status` is below 0 for the signal that ended it, None: it did not end in time."""

    status: int | None
    stdout: bytes
    stderr: str
    cpu_seconds: float
    mib: float  # by which its memory grew
    left: list[str]  # files that it made where nothing should be


Check = Callable[[Outcome], "str | None"]  # what is wrong with an answer of status 0; None: nothing that can be known


@dataclass
class Case:
    """A command, and what it must say."""

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # a refusal's line has one of these
    statuses: tuple[int, ...] = (0, 2)
    check: Check | None = None
    oracle: Check | None = None  # asked of transformers, in a process of its own
    may_last: bool = False  # what is asked for may rightly take long
    patience: float = 1.0  # by which the limit of computation is multiplied
    told: list[str] = field(default_factory=list)  # what was changed


class Room:
    """The folder of one case. Commands stand in `work`; `home`, `cache` and `tmp` are their own."""

    def __init__(self, path: Path, bases: Path) -> None:
        self.path, self.bases = path, bases
        self.work = path / "work"
        for name in ("work/out", "work/readonly", "home", "tmp"):
            (path / name).mkdir(parents=True)
        shutil.copytree(bases / "cache", path / "cache")  # with what is known of the machine: trials take a second
        (self.work / "file").write_text("some text\n")
        (self.work / "loop").symlink_to("loop")
        (self.work / "dangling").symlink_to("nowhere")
        os.mkfifo(self.work / "fifo")
        (self.work / "readonly").chmod(0o555)

    def copy(self, base: str, name: str = "model") -> Path:
        """A base's files, as links: use `write` to change one."""
        target = self.path / name
        shutil.copytree(self.bases / base, target, copy_function=os.link)
        return target

    def write(self, path: Path, content: bytes | str) -> Path:
        """A file in place of what is there."""
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path

    def variables(self) -> dict[str, str]:
        """What every command is told."""
        own = {"HOME": "home", "MPI_SPP_CACHE": "cache", "TMPDIR": "tmp"}
        return {name: str(self.path / folder) for name, folder in own.items()}

    def files(self) -> set[str]:
        """All that is in the room but for outputs: what a command must leave as it is."""
        ours = {"work", "cache", "home"}
        found = set()
        for root, folders, names in os.walk(self.path):
            if Path(root) == self.path:
                folders[:] = [name for name in folders if name not in ours]
            found |= {os.path.relpath(os.path.join(root, name), self.path) for name in (*names, *folders)}
        return found


def remove(path: Path) -> None:
    """Whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
