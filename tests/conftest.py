"""Every test's outcome goes to a file for `run.py`: a crash or an abort would take pytest's own count with it."""

import os
from pathlib import Path

import hypothesis
import pytest

from mpi_spp.comm.environment import launched_rank, launched_size

_FILE = os.environ.get("MPI_SPP_TEST_OUTCOMES")
_FULL = os.environ.get("MPI_SPP_FULL_TESTS") == "1"
_RANK = launched_rank()

# All ranks must try the same examples, or their collective calls would not match.
_EXAMPLES = 100 if _FULL else 40  # others every day, where there is one rank
hypothesis.settings.register_profile("mpi-spp", deadline=None, derandomize=launched_size() > 1, max_examples=_EXAMPLES)
hypothesis.settings.load_profile("mpi-spp")


def _record(outcome: str, nodeid: str, seconds: float = 0.0) -> None:
    """Append one line. Rank 0 speaks for all, but a failure counts on whichever rank it happens."""
    if _FILE and (_RANK == 0 or outcome == "failed"):
        with Path(_FILE).open("a") as file:
            file.write(f"{outcome}\t{nodeid}\t{seconds:.2f}\n")


def pytest_report_header() -> list[str]:
    """By what the session's runs are drawn."""
    return [f"--seed {os.environ.get('MPI_SPP_TEST_SEED', '0')}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the whole matrix, unless that is asked for."""
    left_out = [item for item in items if item.get_closest_marker("full") and not _FULL]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_logstart(nodeid: str) -> None:
    _record("running", nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that says why it is slow may be."""
    if "Takes long: " in (getattr(getattr(item, "function", None), "__doc__", None) or ""):
        _record("excused", item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    settled = report.when == "call" or not report.passed
    _record(report.outcome if settled else "running", report.nodeid, report.duration)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if not report.passed:
        _record(report.outcome, report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # With a selection such as `-k ring`, a part that has no such test is none the worse.
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and os.environ.get("MPI_SPP_TEST_SELECTION"):
        session.exitstatus = pytest.ExitCode.OK
