"""What of a model decides how its layers are cut into shares."""

from dataclasses import dataclass

from mpi_spp.parallel.shares import Experts


@dataclass(frozen=True)
class LayerShape:
    """As `mpi_spp.parallel.shares.Shape` wants it."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    experts: Experts | None = None
