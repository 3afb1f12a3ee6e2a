"""What a launcher and its ranks keep in folders that all programs share, for when nobody of them is left to remove it.

Launchers tidy up when they end, by most signals too; one that is killed (by SIGKILL, as Linux does when memory runs
out) cannot, and memory in /dev/shm stays taken until the machine starts again.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# Of Open MPI 4 and 5, MPICH, Intel MPI and UCX: a model that somebody keeps there is none of them.
_SHARED_MEMORY = ("vader_segment.", "sm_segment.", "osc_", "mpich_", "Intel_MPI_", "psm2_shm", "ucx_shm_")
_SHM = Path("/dev/shm")
_LAST_FIELD = 5  # of a line of /proc/PID/maps: a path, or nothing


class Leftovers:
    """Of one job of this user, by the processes that belong to it while they run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment`: that of the launcher."""
        self._temporary = Path(environment.get("TMPDIR") or "/tmp")
        self._files: set[Path] = set()
        self._folders: set[Path] = set()
        self._began = time.time()

    def note(self, process: int) -> None:
        """Look at what a process of the job has by now."""
        self._folders.update(self._folders_of(process))
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/maps").read_text(errors="replace").splitlines():
                path = Path(line.split(maxsplit=_LAST_FIELD)[-1])
                if path.parent == _SHM and path.name.startswith(_SHARED_MEMORY):
                    self._files.add(path)

    def remove(self) -> None:
        """All that is there, younger than the job and this user's. Meant for when no process of it runs any more."""
        for path in filter(self._is_ours, self._files):
            with contextlib.suppress(OSError):
                path.unlink()
        for path in filter(self._is_ours, self._folders):
            shutil.rmtree(path, ignore_errors=True)

    def _folders_of(self, process: int) -> Iterator[Path]:
        """Where Open MPI 5, its launcher and Open MPI 4 keep a launcher's sockets and files."""
        for pattern in (f"ompi.{process}", f"prte.*/dvm.{process}", f"ompi.*/pid.{process}"):
            yield from self._temporary.glob(pattern)

    def _is_ours(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            found = path.lstat()
            return found.st_uid == os.geteuid() and found.st_mtime >= self._began - 1
        return False
