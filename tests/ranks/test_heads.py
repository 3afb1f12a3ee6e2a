"""From tokens to heads and back, for any counts of ranks, heads, shares and tokens."""

import pytest
import torch
from layer_shape import LayerShape

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.heads import HeadsOverRanks
from mpi_spp.parallel.shares import Share, split_layer

pytestmark = pytest.mark.ranks(2, 5)

SIZE = 2  # numbers in a head


@pytest.mark.parametrize("num_tokens", (1, 2, 7, 64))
@pytest.mark.parametrize("num_shares", (1, 2, 5))
@pytest.mark.parametrize("query_heads, kv_heads", ((9, 3), (8, 1), (4, 4)))
def test_there_and_back(query_heads: int, kv_heads: int, num_shares: int, num_tokens: int, ranks: Communicator) -> None:
    """Every number of a layer's product is another one. Some ranks have no token, others no head."""
    shape = LayerShape(8, 64, query_heads, kv_heads, SIZE)
    parts, shares = split_layer(shape, ranks.size), split_layer(shape, num_shares)
    numbers = torch.arange(num_tokens * (query_heads + 2 * kv_heads) * SIZE, dtype=torch.float32)
    numbers = numbers.view(num_tokens, -1, SIZE)

    def product_of(share: Share) -> torch.Tensor:
        keys = [query_heads + head for head in share.kv_heads]
        return numbers[:, [*share.query_heads, *keys, *(kv_heads + key for key in keys)]].flatten(1)

    exchange = HeadsOverRanks(ranks, parts, shares, SIZE)
    own, mine = exchange.rows(num_tokens), parts[ranks.rank]
    rows, held = slice(own.start, own.stop), [share for share in shares if share.query_heads]
    together = exchange.to_heads([product_of(share)[rows].clone() for share in held], num_tokens)
    assert torch.equal(together, product_of(mine))
    outputs = exchange.to_tokens(together[:, : len(mine.query_heads) * SIZE].contiguous())
    for share, output in zip(held, outputs, strict=True):
        assert torch.equal(output, numbers[rows, list(share.query_heads)].flatten(1))
    assert torch.equal(exchange.last(numbers[rows].flatten(1), num_tokens), numbers[-1:].flatten(1))
