"""How much of a layer falls to a rank: a part of its weights, heads and columns; and of heads that travel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel.shares import Share, kv_heads_of


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


@dataclass(frozen=True)
class HeadsMoved:
    """Of the two all-to-alls around the attention of a layer, where ranks split tokens: heads, by the shard of each.

    A rank gives each other the heads of that one for its own tokens; back come outputs for the query heads.
    """

    heads: list[int]  # queries, keys and values
    queries: list[int]

    def counts(self, shard: int, own: float, num_tokens: float) -> list[tuple[float, float]]:
        """Given and taken by a rank with so many tokens of its own of a chunk, in both."""
        heads, queries = self.heads[shard], self.queries[shard]
        others = num_tokens - own
        there = (own * (sum(self.heads) - heads), others * heads)
        return [there, (others * queries, own * (sum(self.queries) - queries))]

    def busiest(self) -> tuple[float, float]:
        """The most that any rank gives or takes of one token, in both."""
        of_ranks = [self.counts(shard, 1 / len(self.heads), 1) for shard in range(len(self.heads))]
        first, second = (max(max(given_taken) for given_taken in column) for column in zip(*of_ranks, strict=True))
        return first, second


def heads_moved(shares: Sequence[Share]) -> HeadsMoved:
    """`shares`: whose heads each shard attends with."""
    queries = [len(share.query_heads) for share in shares]
    return HeadsMoved([count + 2 * len(share.kv_heads) for count, share in zip(queries, shares, strict=True)], queries)


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
