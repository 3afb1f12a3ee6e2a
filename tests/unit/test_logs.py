"""A log file for every rank."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.system.logs import log_to_directory


@pytest.fixture(autouse=True)
def unchanged_logger() -> Iterator[None]:
    logger = logging.getLogger("mpi_spp")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()


def test_a_new_directory_and_a_new_file(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True)
    (directory / "rank3.log").write_text("of the last run")
    log_to_directory(str(directory), 3)
    logging.getLogger("mpi_spp.engine.engine").info("prefill_end at %.3f s", 1.5)
    (line,) = (directory / "rank3.log").read_text().splitlines()
    assert line.endswith("INFO prefill_end at 1.500 s")


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--log-dir"):
        log_to_directory(str(tmp_path / "file" / "logs"), 0)
