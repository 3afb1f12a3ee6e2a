"""A stage whose logits are those of a table: for tests of selection, which needs no model."""

from types import SimpleNamespace

import torch

from mpi_spp.model.decoder import rounding_of
from mpi_spp.parallel.partition import split_evenly


class ScoreTable:
    """One rank's slice of a table [rows, vocab_size], rounded to a dtype; a hidden state is the number of a row."""

    def __init__(self, table: torch.Tensor, dtype: torch.dtype, vocabulary: range) -> None:
        self.config, self.vocabulary = SimpleNamespace(vocab_size=table.shape[1]), vocabulary
        self._table, self._dtype = table[:, vocabulary.start : vocabulary.stop], dtype

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._table[hidden[:, 0].long()].to(self._dtype)

    def rounding(self, logits: torch.Tensor) -> float:
        return rounding_of(logits)

    def exact_logits(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self._table[hidden[0, 0].long(), places]


def slice_of(table: torch.Tensor, dtype: torch.dtype, rank: int, size: int) -> ScoreTable:
    """The slice of one of `size` ranks; it is empty when they outnumber the tokens."""
    return ScoreTable(table, dtype, split_evenly(table.shape[1], size)[rank])


def hidden_of(table: torch.Tensor) -> torch.Tensor:
    """Hidden states [rows, 1] of all rows of a table, in order."""
    return torch.arange(float(len(table)))[:, None]
