"""Ranks that stay for all tests: see tests/console.py."""

from collections.abc import Iterator

import pytest
from console import Console


@pytest.fixture(scope="session")
def console() -> Iterator[Console]:
    """Three ranks."""
    ranks = Console(3)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def alone() -> Iterator[Console]:
    """One process without an mpirun."""
    process = Console(1)
    yield process
    process.close()
