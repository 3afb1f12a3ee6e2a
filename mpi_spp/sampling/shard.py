"""The scores of one rank's slice of the vocabulary, for some rows of hidden states."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from mpi_spp.model.decoder import Stage
from mpi_spp.sampling.noise import Floats, Ids

NO_TOKEN = 2**31 - 1  # loses every tie: the id of a rank that has no candidate
Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


def in_order(values: Scores, ids: Ids) -> Places:
    """The places from the largest value down; equal values by the lowest id."""
    return np.lexsort((ids, -values))


class Shard:
    """Float32 logits [rows, len(vocabulary)] as the stage gives them; a NaN is the least of all.

    +inf becomes the largest finite value, so that differences of logits stay numbers.
    """

    def __init__(self, stage: Stage, hidden: torch.Tensor) -> None:
        self._stage, self._hidden = stage, hidden
        self.vocabulary, self.vocab_size = stage.vocabulary, stage.config.vocab_size
        logits = stage.logits(hidden) if len(stage.vocabulary) else torch.empty(len(hidden), 0)
        self._eps = 0.0 if logits.dtype == torch.float32 else torch.finfo(logits.dtype).eps
        self.logits: Scores = _as_numbers(logits)
        self.ids: Ids = np.arange(stage.vocabulary.start, stage.vocabulary.stop)

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
        """The largest score(logits, ids) of some ascending places and its id, the lowest among equals.

        Logits of 16 bits are rounded, and not quite alike for slices of different sizes. So whatever comes within the
        rounding of the best is computed again in float32, as in greedy selection. `scale`: of scores to logits.
        """
        if not len(places):
            return -np.inf, NO_TOKEN
        scores = score(self.logits[row, places], self.ids[places])
        if self._eps and np.isfinite(scores.max()):
            slack = 2 * self._eps * scale * _largest_finite(self.logits[row])
            places = places[scores >= scores.max() - slack]
            scores = score(self._exact(row, places), self.ids[places])
        first = int(scores.argmax())
        return float(scores[first]), int(self.ids[places[first]])

    def _exact(self, row: int, places: Places) -> Scores:
        on_device = torch.from_numpy(places).to(self._hidden.device)
        return _as_numbers(self._stage.exact_logits(self._hidden[row : row + 1], on_device))


def _as_numbers(logits: torch.Tensor) -> Scores:
    return logits.float().nan_to_num(nan=-torch.inf, neginf=-torch.inf).cpu().numpy()


def _largest_finite(logits: Scores) -> Floats:
    sizes = np.abs(logits.astype(np.float64))
    return sizes[np.isfinite(sizes)].max(initial=0.0)
