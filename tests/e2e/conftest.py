"""Ranks that stay for all tests: see tests/console.py."""

from collections.abc import Iterator

import pytest
from console import Ranks, lasting


@pytest.fixture(scope="session")
def console() -> Iterator[Ranks]:
    """Three ranks."""
    ranks = lasting(3)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def alone() -> Iterator[Ranks]:
    """One process without an mpirun."""
    process = lasting(1)
    yield process
    process.close()
