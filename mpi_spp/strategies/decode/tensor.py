"""Tensor parallel decode: each rank computes its share of a layer on its heads of the cache; all add up twice a layer.

Source: Shoeybi et al., 2019 (Megatron-LM).
"""

from mpi_spp.parallel.mesh import shards
from mpi_spp.strategies.decode._together import Together

place = shards
decode = Together
