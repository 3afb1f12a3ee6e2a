"""Three hosts of one core each: new for every test that does something to them."""

from collections.abc import Iterator

import pytest

from benchmarks.hosts.machine import why_not
from benchmarks.hosts.network import Network, network


@pytest.fixture(scope="session")
def possible() -> None:
    """Skips where the machine cannot have several hosts, and says why."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def lasting_hosts(possible: None) -> Iterator[Network]:
    """The same for tests that only run something there."""
    with network(3) as made:
        yield made


@pytest.fixture
def three_hosts(possible: None) -> Iterator[Network]:
    """node1, node2 and node3."""
    with network(3) as made:
        yield made
