"""Tests under mpirun: rank 0 speaks, and a failure on any rank ends all of them at once instead of a deadlock."""

import os
import sys
import time

import pytest
from mpi4py import MPI


@pytest.fixture(scope="session")
def comm() -> MPI.Intracomm:
    """All ranks of the job."""
    return MPI.COMM_WORLD


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if MPI.COMM_WORLD.rank > 0 and reporter is not None:
        reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)


@pytest.hookimpl(trylast=True)  # after the outcome has been recorded
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _end_all_ranks_if_failed(report)


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    _end_all_ranks_if_failed(report)


def _end_all_ranks_if_failed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Show the failure of this rank, then abort: the other ranks may be waiting for it in a collective call."""
    if not report.failed or MPI.COMM_WORLD.size == 1:
        return
    shown = "\n".join([report.nodeid, report.longreprtext, report.caplog, report.capstdout, report.capstderr])
    for line in shown.splitlines():
        print(f"[rank {MPI.COMM_WORLD.rank}] {line}", file=sys.stderr)
    sys.stderr.flush()
    time.sleep(0.5)  # the launcher may drop what it has not forwarded when ranks abort; other ranks may fail as well
    MPI.COMM_WORLD.Abort(1)
