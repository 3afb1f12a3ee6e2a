"""How much of a layer falls to a rank: a part of its weights, heads and columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpi_spp.model.config import ModelConfig
from mpi_spp.shares import Share, kv_heads_of


@dataclass(frozen=True)
class Work:
    """Parts of a whole layer: weights of its attention and of its MLP, of all weights; query heads, key/value heads.

    Of experts those weights count that a token meets on average: when all experts get as many tokens.
    """

    attention: float
    mlp: float
    query_heads: float
    kv_heads: float


def largest_work(model: ModelConfig, shares: Sequence[Share], blocks: Iterable[range]) -> Work:
    """The most that any of these blocks of consecutive shares has, of each."""
    works = [_of_block(model, shares[block.start : block.stop]) for block in set(blocks)]
    return Work(*(max(getattr(work, name) for work in works) for name in Work.__dataclass_fields__))


def _of_block(model: ModelConfig, shares: Sequence[Share]) -> Work:
    queries = sum(len(share.query_heads) for share in shares)
    keys = sum(len(share.kv_heads) for share in shares)  # one that two shares keep is computed by both
    width, whole, columns = model.hidden_size, model.active_parameters, sum(_columns(model, share) for share in shares)
    return Work(
        2 * width * model.head_dim * (queries + keys) / whole,
        3 * width * columns / whole,
        queries / model.num_attention_heads,
        len(kv_heads_of(shares)) / model.num_key_value_heads,
    )


def _columns(model: ModelConfig, share: Share) -> float:
    """Of the MLP and of the experts that a token meets, on average over the layers."""
    experts, part = model.experts, model.expert_share
    if experts is None:
        return len(share.mlp)
    met = len(share.shared) + len(share.experts) * len(share.expert_columns) * experts.top_k / experts.count
    return part * met + (1 - part) * len(share.mlp)
