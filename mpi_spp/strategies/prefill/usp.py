"""Unified sequence parallel prefill: Ulysses among neighbours, as inside a host, and a ring between those groups.

On a mesh pp=R,tp=U the prompt's positions are split into R parts, and the tokens of each over U ranks. In a layer two
all-to-alls bring each of these U ranks all rows of its part for its own heads, and back; between them the keys and
values of these heads go round the R ranks that have the same ones. Every rank has the whole weights; the cache is split
by heads and positions, and what goes between hosts is 1/U of what a ring alone would send from each rank.

Source: Fang and Zhao, 2024 (USP).
"""

from mpi_spp.parallel.mesh import positions_and_tokens
from mpi_spp.strategies.prefill._ring import round_the_ring

place = positions_and_tokens
prefill = round_the_ring
