"""Every test's outcome goes to a file for `run.py`: a crash or an abort would take pytest's own count with it."""

import os
from pathlib import Path

import hypothesis
import pytest

from mpi_spp.comm.environment import launched_rank, launched_size

_FILE = os.environ.get("MPI_SPP_TEST_OUTCOMES")
_RANK = launched_rank()

# All ranks must try the same examples, or their collective calls would not match.
hypothesis.settings.register_profile("mpi-spp", deadline=None, derandomize=launched_size() > 1)
hypothesis.settings.load_profile("mpi-spp")


def _record(outcome: str, nodeid: str) -> None:
    """Append one line. Rank 0 speaks for all, but a failure counts on whichever rank it happens."""
    if _FILE and (_RANK == 0 or outcome == "failed"):
        with Path(_FILE).open("a") as file:
            file.write(f"{outcome}\t{nodeid}\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    _record("running", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        _record(report.outcome, report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if not report.passed:
        _record(report.outcome, report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # With a selection such as `-k ring`, a part that has no such test is none the worse.
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and os.environ.get("MPI_SPP_TEST_SELECTION"):
        session.exitstatus = pytest.ExitCode.OK
