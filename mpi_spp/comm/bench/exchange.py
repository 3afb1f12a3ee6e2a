"""One operation on messages of one size: its memory on a rank, and the data that must arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Data repeat after a prime number of elements, so that what arrives at another place than its own looks wrong there.
_PERIOD = 251


@dataclass(frozen=True)
class Data:
    """What a rank gives and gets: one pattern [_PERIOD] for each message, which its elements repeat.

    `own` lies where messages arrive before the exchange: what the rank itself brings to an exchange in place.
    """

    outgoing: Sequence[torch.Tensor]
    own: dict[int, torch.Tensor]
    expected: Sequence[torch.Tensor]


def data_of(operation: str, rank: int, size: int) -> Data:
    """The data of one rank in an operation of `size` ranks."""
    ranks, last = range(size), size - 1
    if operation == "allgather":
        return Data([_bytes(rank)], {rank: _bytes(rank)}, [_bytes(source) for source in ranks])
    if operation == "ring":
        return Data([_bytes(rank)], {}, [_bytes((rank - 1) % size)])
    if operation == "allreduce":
        return Data([], {0: _numbers(rank)}, [torch.stack([_numbers(source) for source in ranks]).sum(0)])
    if operation == "alltoall":
        to_each, from_each = ([_bytes(*pair) for pair in pairs] for pairs in _pairs(rank, size))
        return Data(to_each, {}, from_each)
    if operation == "broadcast":
        return Data([], {0: _bytes(0)} if rank == 0 else {}, [_bytes(0)])
    if rank in (0, last):  # ping-pong
        return Data([_bytes(rank)], {}, [_bytes(last - rank)])
    return Data([], {}, [])


def moved_bytes(operation: str, nbytes: int, size: int) -> int:
    """The bytes that a rank must at least receive from others, for messages of `nbytes`."""
    if operation in ("allgather", "alltoall"):
        return nbytes * (size - 1)
    if operation == "allreduce":
        return 2 * nbytes * (size - 1) // size
    return nbytes


def memory_bytes(operation: str, nbytes: int, size: int) -> int:
    """What an exchange allocates on the rank that needs most."""
    data = data_of(operation, 0, size)
    return nbytes * (len(data.outgoing) + len(data.expected))


class Exchange:
    """Messages of `nbytes` each: `outgoing` and `incoming` are [messages, elements].

    Elements are of `dtype` where they are added up, and bytes elsewhere.
    """

    def __init__(
        self, operation: str, nbytes: int, rank: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.operation, self.nbytes, self.rank, self.size = operation, nbytes, rank, size
        self.dtype = dtype if operation == "allreduce" else torch.uint8
        self._data = data_of(operation, rank, size)
        elements = nbytes // self.dtype.itemsize
        self.outgoing, self.incoming = (
            torch.empty(len(messages), elements, dtype=self.dtype, device=device)
            for messages in (self._data.outgoing, self._data.expected)
        )

    @property
    def next(self) -> int:
        """The rank that this one sends to in a ring."""
        return (self.rank + 1) % self.size

    @property
    def prev(self) -> int:
        """The rank that this one receives from in a ring."""
        return (self.rank - 1) % self.size

    @property
    def peer(self) -> int:
        """The other end of a ping-pong, for the first and the last rank."""
        return self.size - 1 - self.rank

    @property
    def takes_part(self) -> bool:
        """Whether this rank has anything to do."""
        return len(self._data.expected) > 0

    def fill(self) -> None:
        """What this rank gives stands in its place, and nothing where messages shall arrive."""
        self.incoming.zero_()
        for message, pattern in (
            *zip(self.outgoing, self._data.outgoing, strict=True),
            *((self.incoming[index], pattern) for index, pattern in self._data.own.items()),
        ):
            whole, rest = _periods(message)
            like = pattern.to(message)
            whole.copy_(like.expand_as(whole))
            rest.copy_(like[: len(rest)])

    def take(self, arrived: Any) -> None:
        """Copy what came as new arrays, one or a list of them, to where it is looked for."""
        messages = arrived if isinstance(arrived, list) else [arrived]
        for message, array in zip(self.incoming, messages, strict=True):
            message.copy_(torch.tensor(array))

    def is_right(self) -> bool:
        """Whether every element that must have arrived is in its place."""
        return all(
            torch.equal(whole, like.expand_as(whole)) and torch.equal(rest, like[: len(rest)])
            for message, pattern in zip(self.incoming, self._data.expected, strict=True)
            for like in (pattern.to(message),)
            for whole, rest in (_periods(message),)
        )

    def rest(self) -> None:
        """Zeros, which a sum in place may add up for ever."""
        self.incoming.zero_()


def _pairs(rank: int, size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The (source, destination) of what a rank sends to each, and gets from each."""
    return [(rank, other) for other in range(size)], [(other, rank) for other in range(size)]


def _bytes(source: int, dest: int = 0) -> torch.Tensor:
    """What one rank has for another: no byte is 0."""
    return (torch.arange(_PERIOD) + 7 * source + 13 * dest) % _PERIOD + 1


def _numbers(rank: int) -> torch.Tensor:
    """Of every rank, 0 in the same places and 1 or 2 in the others: sums over a hundred are exact in bfloat16 too."""
    return torch.arange(_PERIOD) * 89 % _PERIOD * (1 + rank % 2) % 3


def _periods(message: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A message as whole periods [count, _PERIOD], and what is left."""
    whole = len(message) // _PERIOD * _PERIOD
    return message[:whole].view(-1, _PERIOD), message[whole:]
