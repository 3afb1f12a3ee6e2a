"""From tokens to heads and back: two all-to-alls around the attention, for any counts of ranks, heads and tokens."""

from collections.abc import Sequence

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.parallel.shares import Share, heads_among

Pieces = list[tuple[int, range]]  # heads of a tensor of several, by its number


class HeadsOverRanks:
    """A `HeadsExchange` of the ranks of a communicator: tokens are split evenly, heads as the shares have them."""

    def __init__(self, comm: Communicator, parts: Sequence[Share], held: Sequence[Share], head_dim: int) -> None:
        """`parts`: whose heads each rank attends with; `held`: the shares of a layer of which its products are."""
        self._comm, self._size = comm, head_dim
        self.heads = parts[comm.rank]
        with_heads = [share for share in held if share.query_heads]
        self._outgoing = [_where(part, with_heads) for part in parts]
        queries = [part.query_heads for part in parts]
        self._incoming = [heads_among(share.query_heads, queries) for share in with_heads]
        self._num_queries = list(map(len, queries))
        self._num_heads = [len(part.query_heads) + 2 * len(part.kv_heads) for part in parts]

    def rows(self, num_tokens: int) -> range:
        """Which of so many tokens are computed here."""
        return split_evenly(num_tokens, self._comm.size)[self._comm.rank]

    def to_heads(self, products: Sequence[torch.Tensor], num_tokens: int) -> torch.Tensor:
        """Queries, keys and values [num_tokens, own heads * head_dim] of products [own tokens, heads * head_dim]."""
        rows = products[0].shape[0]
        by_head = [product.view(rows, product.shape[1] // self._size, self._size) for product in products]
        lengths = [rows * count for count in self._num_heads]
        outgoing = products[0].new_empty((sum(lengths), self._size))
        for block, count, pieces in zip(outgoing.split(lengths), self._num_heads, self._outgoing, strict=True):
            if pieces:
                torch.cat(_taken(by_head, pieces), dim=1, out=block.view(rows, count, self._size))
        mine = self._num_heads[self._comm.rank]
        incoming = outgoing.new_empty((num_tokens * mine, self._size))
        self._exchange(outgoing, lengths, incoming, [len(of_rank) * mine for of_rank in self._split(num_tokens)])
        return incoming.view(num_tokens, mine * self._size)

    def to_tokens(self, outputs: torch.Tensor) -> list[torch.Tensor]:
        """For each held share with heads [own tokens, query heads * head_dim], of outputs of the own heads."""
        num_tokens, mine = outputs.shape[0], self._num_queries[self._comm.rank]
        rows = len(self.rows(num_tokens))
        lengths = [rows * count for count in self._num_queries]
        incoming = outputs.new_empty((sum(lengths), self._size))
        outgoing = outputs.reshape(num_tokens * mine, self._size)
        self._exchange(outgoing, [len(of_rank) * mine for of_rank in self._split(num_tokens)], incoming, lengths)
        blocks = zip(incoming.split(lengths), self._num_queries, strict=True)
        by_head = [block.view(rows, count, self._size) for block, count in blocks]
        return [_joined(_taken(by_head, pieces)).flatten(1) for pieces in self._incoming]

    def last(self, hidden: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """The hidden state [1, hidden_size] of the last of so many tokens, on all ranks."""
        owner = min(num_tokens, self._comm.size) - 1  # later ranks have none
        row = hidden[-1:].clone() if self._comm.rank == owner else hidden.new_empty((1, hidden.shape[1]))
        self._comm.broadcast(row, root=owner)
        return row

    def _split(self, num_tokens: int) -> list[range]:
        return split_evenly(num_tokens, self._comm.size)

    def _exchange(
        self, outgoing: torch.Tensor, out_lengths: list[int], incoming: torch.Tensor, in_lengths: list[int]
    ) -> None:
        self._comm.wait(self._comm.ialltoall(outgoing, out_lengths, incoming, in_lengths))


def _where(part: Share, held: Sequence[Share]) -> Pieces:
    """The queries, keys and values of a part, as places among the heads that the products of the held shares have."""
    queries = heads_among(part.query_heads, [share.query_heads for share in held])
    keys = heads_among(part.kv_heads, [share.kv_heads for share in held])
    pieces = list(queries)
    for kind in (0, 1):  # behind the queries keys, behind these values
        for index, places in keys:
            first = len(held[index].query_heads) + kind * len(held[index].kv_heads)
            pieces.append((index, range(first + places.start, first + places.stop)))
    return pieces


def _taken(by_head: Sequence[torch.Tensor], pieces: Pieces) -> list[torch.Tensor]:
    """Views [tokens, heads, head_dim] of the pieces."""
    return [by_head[index][:, places.start : places.stop] for index, places in pieces]


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
