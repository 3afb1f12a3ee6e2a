"""`python -m mpi_spp` is the same program as `mpi-spp`."""

from mpi_spp.cli import main

main()
