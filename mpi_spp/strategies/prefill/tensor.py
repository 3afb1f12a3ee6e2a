"""Tensor parallel prefill: every rank computes its share of each layer, and all add up twice a layer.

Source: Shoeybi et al., 2019 (Megatron-LM).
"""

from mpi_spp.parallel.mesh import shards
from mpi_spp.strategies.prefill._chunks import whole

place = shards
prefill = whole
