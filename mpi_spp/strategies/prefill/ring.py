"""Ring Attention prefill: the prompt's positions are split over the ranks, and keys and values go round them.

Every rank computes all layers of its own tokens: it needs the whole weights (of experts some are enough: `--mesh
ep=P`), but a part of the cache only. A long prompt comes in chunks, each split over all ranks, which bounds the memory
of what is computed on the way. On a mesh with an axis tp the ranks of that make a ring each, inside stages of layers.

Source: Liu et al., 2023 (Ring Attention).
"""

from mpi_spp.parallel.mesh import position_stages
from mpi_spp.strategies.prefill._ring import round_the_ring

place = position_stages
prefill = round_the_ring
