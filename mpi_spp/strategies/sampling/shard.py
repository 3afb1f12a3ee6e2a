"""The scores of one rank's slice of the vocabulary, for some rows of hidden states."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from mpi_spp.strategies.sampling.head import Head
from mpi_spp.strategies.sampling.noise import Ids
from mpi_spp.strategies.sampling.penalties import Adjust

NO_TOKEN = 2**31 - 1  # loses every tie: the id of a rank that has no candidate
NOT_FINITE = NO_TOKEN - 1  # in the place of a token: some score of the row is NaN or infinite; any of both is no token
Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


def in_order(values: Scores, ids: Ids) -> Places:
    """The places from the largest value down; equal values by the lowest id."""
    return np.lexsort((ids, -values))


def marked(values: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best score of each row with its id, both on the CPU, where NaN and +inf win for NOT_FINITE over all ranks."""
    values, ids = values.cpu(), ids.cpu()
    if values.isfinite().all():
        return values, ids
    is_none = values == -torch.inf
    is_bad = ~values.isfinite() & ~is_none
    return values.masked_fill(is_bad, torch.inf), ids.masked_fill(is_bad, NOT_FINITE).masked_fill(is_none, NO_TOKEN)


class Shard:
    """Float32 logits [rows, len(vocabulary)] as the stage gives them.

    In a row with a NaN or +inf, which `winner` gives away, these become finite, so that differences stay numbers.
    """

    def __init__(self, head: Head, hidden: torch.Tensor, adjusts: Sequence[Adjust | None] = ()) -> None:
        self._head, self._hidden, self._adjusts = head, hidden, adjusts or [None] * len(hidden)
        self.vocabulary, self.vocab_size = head.vocabulary, head.config.vocab_size
        logits = head.logits(hidden) if len(head.vocabulary) else torch.empty(len(hidden), 0)
        self._rounding = head.rounding(logits) if len(head.vocabulary) else 0.0
        if any(self._adjusts):
            self._rounding *= max(adjust.stretch for adjust in self._adjusts if adjust is not None)
            rows = zip(logits.float(), self._adjusts, strict=True)
            logits = torch.stack([scores if adjust is None else adjust(scores) for scores, adjust in rows])
        tops = logits.amax(dim=1) if len(head.vocabulary) else logits.new_zeros(len(hidden))
        self._is_bad: list[bool] = (tops.isnan() | (tops == torch.inf)).tolist()
        self.logits: Scores = _as_numbers(logits)
        self.ids: Ids = np.arange(head.vocabulary.start, head.vocabulary.stop)

    def best(self, row: int, count: int) -> tuple[Scores, Ids]:
        """The `count` best logits of a row and their ids, in order; all of them when the slice has no more."""
        logits, places = self.logits[row], np.arange(len(self.ids))
        if count < len(logits):
            places = np.flatnonzero(logits >= np.partition(logits, -count)[-count])  # ties too: the order decides
        first = places[in_order(logits[places], self.ids[places])][:count]
        return logits[first], self.ids[first]

    def up_to(self, row: int, value: float, token_id: int) -> Places:
        """The places, ascending, of the tokens that do not come after this one in the order of `in_order`."""
        logits = self.logits[row]
        return np.flatnonzero((logits > value) | ((logits == value) & (self.ids <= token_id)))

    def winner(
        self, row: int, places: Places, score: Callable[[Scores, Ids], Scores], scale: float
    ) -> tuple[float, int]:
        """The largest score(logits, ids) of some ascending places and its id, the lowest among equals; see `marked`.

        Logits of 16 bits are rounded, and not quite alike for slices of different sizes. So whatever comes within the
        rounding of the best is computed again in float32, as in greedy selection. `scale`: of scores to logits.
        """
        if self._is_bad[row]:
            return np.inf, NOT_FINITE
        if not len(places):
            return -np.inf, NO_TOKEN
        scores = score(self.logits[row, places], self.ids[places])
        if self._rounding and np.isfinite(scores.max()):
            places = places[scores >= scores.max() - self._rounding * scale]
            scores = score(self._exact(row, places), self.ids[places])
        first = int(scores.argmax())
        return float(scores[first]), int(self.ids[places[first]])

    def _exact(self, row: int, places: Places) -> Scores:
        on_device = torch.from_numpy(places).to(self._hidden.device)
        exact, adjust = self._head.exact_logits(self._hidden[row : row + 1], on_device), self._adjusts[row]
        return _as_numbers(exact if adjust is None else adjust(exact, on_device))


def _as_numbers(logits: torch.Tensor) -> Scores:
    return logits.float().nan_to_num(nan=-torch.inf, neginf=-torch.inf).cpu().numpy()
