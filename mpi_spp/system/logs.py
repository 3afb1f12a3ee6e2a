"""A log file for every rank."""

import logging
import sys
from pathlib import Path

from mpi_spp.errors import UserError
from mpi_spp.system.outputs import require_writable

_LOGGER = logging.getLogger("mpi_spp")


def log_to_directory(directory: str, rank: int) -> None:
    """Write this rank's log to `directory/rankR.log`, made anew. Raises UserError when that cannot be written.

    It ends with the next `end_logs`.
    """
    path = Path(directory) / f"rank{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_writable("--log-dir", path)
        handler = _LogFile(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log-dir: {path} cannot be written ({error.strerror}); give another directory") from None
    except ValueError as error:
        raise UserError(f"--log-dir: {directory!r} is no name of a directory ({error}); give another") from None
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)


class _LogFile(logging.FileHandler):
    """A log that cannot go on is no reason to end the work: it says so, once."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""
        _LOGGER.removeHandler(self)
        why = sys.exc_info()[1]
        told = why.strerror if isinstance(why, OSError) else why
        print(f"mpi-spp: warning: --log-dir: {self.baseFilename} ends here ({told})", file=sys.stderr, flush=True)
        self.stream = None  # or its end would fail as its last line did


def end_logs() -> None:
    """Close the files of this process's earlier runs: a later one must not write into them."""
    for handler in [one for one in _LOGGER.handlers if isinstance(one, logging.FileHandler)]:
        _LOGGER.removeHandler(handler)
        handler.close()
    _LOGGER.setLevel(logging.NOTSET)
