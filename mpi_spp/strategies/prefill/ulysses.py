"""Sequence parallel prefill: every rank computes a part of each chunk's tokens with whole layers, attention by heads.

Before the attention an all-to-all brings each rank all of the chunk's rows of its own heads, after it another brings
the outputs back to the tokens. On a mesh with an axis tp its ranks do so, inside stages of layers.

Source: Jacobs et al., 2023 (DeepSpeed Ulysses).
"""

from mpi_spp.parallel.mesh import token_shards
from mpi_spp.strategies.prefill._chunks import whole

place = token_shards
prefill = whole
