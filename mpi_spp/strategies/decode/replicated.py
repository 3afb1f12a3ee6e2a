"""Replicated decode: every rank computes every layer on its own whole cache, so no keys or values travel."""

from mpi_spp.parallel.mesh import everything
from mpi_spp.strategies.decode._together import Together

place = everything
decode = Together
