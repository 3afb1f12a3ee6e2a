"""Tests under mpirun: rank 0 speaks, and a failure on any rank ends all of them at once instead of a deadlock."""

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpi_spp.comm.components import choose_components

choose_components()  # before MPI starts, as the program does: else each start sleeps for a second
from mpi4py import MPI  # noqa: E402

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import World


FULL_RANKS = range(1, 6)  # of all tests, when the whole matrix is asked for


@pytest.fixture(scope="session")
def comm() -> MPI.Intracomm:
    """All ranks of the job."""
    return MPI.COMM_WORLD


@pytest.fixture(scope="session")
def world() -> "World":
    """The job, as the program sees it."""
    from mpi_spp.comm.world import the_world  # leaves MPI to be started by it, but here it has been

    return the_world()


@pytest.fixture(scope="session")
def models(world: "World") -> Path:
    """The directory of the reference models."""
    import reference_models

    return world.on_rank_0(reference_models.build_reference_models)


@pytest.fixture(scope="module", params=["direct", "staged"])
def ranks(request: pytest.FixtureRequest, world: "World") -> "Communicator":
    """All ranks of the job, straight from memory and as for a GPU; tests run with more ranks than cores."""
    from mpi_spp.comm.buffers import Direct, ThroughHost
    from mpi_spp.comm.communicator import Communicator

    staging = Direct() if request.param == "direct" else ThroughHost(pin_memory=False)
    return Communicator(world.mpi_comm.Dup(), staging, shares_core=True)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Spare all ranks the import of modules without a test for so many: it takes longer than some sessions."""
    if collection_path.suffix != ".py" or os.environ.get("MPI_SPP_FULL_TESTS") == "1":
        return None
    numbers = re.findall(r"mark\.ranks\(([\d, ]+)\)", collection_path.read_text(encoding="utf-8"))
    wanted = {int(number) for few in numbers for number in few.split(",")}
    return True if wanted and MPI.COMM_WORLD.size not in wanted else None


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for other counts of ranks, or not for this kind of session."""
    left_out = [item for item in items if not _is_for(item, MPI.COMM_WORLD.size)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_for(item: pytest.Item, num_ranks: int) -> bool:
    only, ranks = os.environ.get("MPI_SPP_TEST_ONLY"), item.get_closest_marker("ranks")
    if only and item.get_closest_marker(only) is None:
        return False
    if os.environ.get("MPI_SPP_FULL_TESTS") == "1":
        return ranks is None or num_ranks in FULL_RANKS
    return ranks is None or num_ranks in ranks.args


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
