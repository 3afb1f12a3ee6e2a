"""What every benchmark says first: on which processor, by which kernels."""

import sys

from mpi_spp.kernels.choice import describe
from mpi_spp.model.loading.hub import cache_directory


def tell() -> str:
    """Print the line on standard error, and return it."""
    line = describe(cache_directory() / "kernels")
    print(line, file=sys.stderr, flush=True)
    return line
