"""Ends hosts whose maker has ended, however that came: `python keeper.py`, a process of its own.

It reads from standard input, until its end, a directory to remove, and the namespaces of hosts, a line each.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Wait for the maker's end, and leave nothing."""
    directory, *namespaces = sys.stdin.read().splitlines()
    for namespace in namespaces:
        end_all(namespace)
    shutil.rmtree(directory, ignore_errors=True)


def end_all(namespace: str) -> None:
    """End all processes of a host at once, and return when they are gone."""
    while processes := processes_of(namespace):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.001)


def processes_of(namespace: str) -> list[int]:
    """All that live on a host."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _namespace(path) == namespace]


def namespace_of(process: int) -> str:
    """What the processes of a host have in common, and no others have."""
    return os.readlink(f"/proc/{process}/ns/uts")


def _namespace(process: Path) -> str:
    """Nothing when it has ended."""
    with suppress(OSError):
        return namespace_of(int(process.name))
    return ""


if __name__ == "__main__":
    main()
