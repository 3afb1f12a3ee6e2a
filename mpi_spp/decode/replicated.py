"""Replicated decode: every rank computes every layer on its own whole cache, so no keys or values travel."""

from mpi_spp.decode._together import Together
from mpi_spp.mesh import everything

place = everything
decode = Together
