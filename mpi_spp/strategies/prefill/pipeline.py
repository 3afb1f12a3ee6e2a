"""Sequence and pipeline parallel prefill: the prompt's chunks stream through the layers' stages.

On a mesh with an axis tp each stage is split over it, too.
"""

from mpi_spp.parallel.mesh import stages
from mpi_spp.strategies.prefill._chunks import whole

place = stages
prefill = whole
