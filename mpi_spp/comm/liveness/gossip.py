"""How news of every rank reaches every other, though each speaks to few: ranks pass on what they have heard.

Each tells those 1, 2, 4, 8, ... places after it, round the ring of ranks, so that a word is everywhere after as many
steps as the number of ranks has binary digits (Hensgen, Finkel and Manber, 1988: the dissemination barrier), and
goes round a rank that is lost: no single one cuts others off.
"""

from typing import Any, NamedTuple

import numpy as np


class Word(NamedTuple):
    """What a rank has told, and when it was heard, by `time.monotonic`."""

    works: bool
    at: float


def listeners(rank: int, size: int) -> list[int]:
    """The ranks that this one tells: log2(size) of them, rounded up."""
    return [(rank + (1 << step)) % size for step in range((size - 1).bit_length())]


class Hearsay:
    """The newest word of every rank that has come to this one, its own included.

    A word is a number: twice how many words that rank had said before, and one more when it works. So of two words of a
    rank the larger is the newer, and an old one that comes round again is no news.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._words = rank, np.zeros(size, np.int32)
        self.heard: list[Word | None] = [None] * size  # None too for this rank itself

    def blank(self) -> Any:
        """Room for the words of all ranks, int32 [size]."""
        return np.empty_like(self._words)

    def tell(self, works: bool) -> Any:
        """Say a word, and return a copy of those of all ranks, int32 [size]."""
        self._words[self._rank] = (self._words[self._rank] | 1) + 1 + works
        return self._words.copy()

    def hear(self, words: Any, now: float) -> int:
        """Take over what is newer of another rank's words, and return how many of those are of ranks that work."""
        newer = np.flatnonzero(words > self._words)
        self._words[newer] = words[newer]
        for rank in newer:
            self.heard[rank] = Word(bool(words[rank] & 1), now)
        return int(np.count_nonzero(words[newer] & 1))
