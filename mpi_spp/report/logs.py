"""A log file for every rank."""

import logging
from pathlib import Path

from mpi_spp.errors import UserError


def log_to_directory(directory: str, rank: int) -> None:
    """Write this rank's log to `directory/rankR.log`, made anew. Raises UserError when that cannot be written."""
    path = Path(directory) / f"rank{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log-dir: {path} cannot be written ({error.strerror}); give another directory") from None
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("mpi_spp")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
