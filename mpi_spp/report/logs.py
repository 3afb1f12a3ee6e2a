"""A log file for every rank."""

import logging
from pathlib import Path

from mpi_spp.errors import UserError

_LOGGER = logging.getLogger("mpi_spp")


def log_to_directory(directory: str, rank: int) -> None:
    """Write this rank's log to `directory/rankR.log`, made anew. Raises UserError when that cannot be written.

    It ends with the next `end_logs`.
    """
    path = Path(directory) / f"rank{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log-dir: {path} cannot be written ({error.strerror}); give another directory") from None
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)


def end_logs() -> None:
    """Close the files of this process's earlier runs: a later one must not write into them."""
    for handler in [one for one in _LOGGER.handlers if isinstance(one, logging.FileHandler)]:
        _LOGGER.removeHandler(handler)
        handler.close()
    _LOGGER.setLevel(logging.NOTSET)
