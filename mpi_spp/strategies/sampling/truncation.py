"""Which tokens top-k and top-p leave, decided alike on every rank from the best few of each slice.

What is left is told by its last token in the order of falling logits (equal ones by the lowest id), so that each rank
finds its own tokens of it. As in transformers: temperature, then top-k, then top-p over what top-k left (Fan et al.,
2018; Holtzman et al., "The curious case of neural text degeneration", 2020). Unlike there, of equal logits at the
boundary only the lowest ids are left, and never more than k.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.strategies.sampling.noise import Ids
from mpi_spp.strategies.sampling.shard import NO_TOKEN, Scores, Shard, in_order

FIRST_COUNT = 64  # of each rank: holds the nucleus of nearly every token of a text
_GROWTH = 4
_ONE = 2.0**40  # a mass of 1; in whole numbers sums are exact, so that their order and the slices cannot matter
Masses = npt.NDArray[np.int64]
Last = tuple[float, int]  # the logit and the id of the last token that is left


@dataclass(frozen=True)
class Best:
    """The best tokens of a row over all ranks, in order."""

    values: Scores
    ids: Ids
    num_certain: int  # so many are the best of the whole vocabulary; after them a rank may have better ones not given
    is_all: bool  # the whole vocabulary


def last_of_top_k(shard: Shard, comm: Communicator, temperature: float, top_k: int, top_p: float) -> list[Last]:
    """For each row the last token left by top-k, then top-p. One message; the k best of all are among each rank's."""
    lasts = []
    for best in gather_best(shard, comm, top_k):
        values, ids = best.values[:top_k], best.ids[:top_k]
        masses = masses_of(values, values[0], temperature)
        num_left = len(ids) if top_p == 1 else size_of_nucleus(masses, int(masses.sum()), top_p)
        lasts.append((float(values[num_left - 1]), int(ids[num_left - 1])))
    return lasts


def last_of_top_p(shard: Shard, comm: Communicator, temperature: float, top_p: float) -> list[Last]:
    """For each row the last token left by top-p over the whole vocabulary.

    Ranks give more of their best until those that are certain reach the mass: a flat distribution takes many.
    """
    count = FIRST_COUNT
    rows = gather_best(shard, comm, count)
    totals = _total_masses(shard, comm, [best.values[0] for best in rows], temperature)
    while True:
        lasts = [_last_if_certain(best, total, temperature, top_p) for best, total in zip(rows, totals, strict=True)]
        found = [last for last in lasts if last is not None]
        if len(found) == len(rows):
            return found
        count *= _GROWTH
        rows = gather_best(shard, comm, count)


def gather_best(shard: Shard, comm: Communicator, count: int) -> list[Best]:
    """For each row the best `count` tokens of every rank, merged. A token that several ranks hold counts once."""
    count = min(count, shard.vocab_size)
    num_rows = len(shard.logits)
    mine = np.empty((num_rows, 2, count), dtype=np.int32)
    values, ids = mine[:, 0].view(np.float32), mine[:, 1]
    values[:], ids[:] = -np.inf, NO_TOKEN
    for row in range(num_rows):
        best_values, best_ids = shard.best(row, count)
        values[row, : len(best_ids)], ids[row, : len(best_ids)] = best_values, best_ids
    of_ranks = comm.allgather(torch.from_numpy(mine)).numpy()
    return [_merged(of_ranks[:, row], shard.vocab_size) for row in range(num_rows)]


def masses_of(values: Scores, largest: np.float32, temperature: float) -> Masses:
    """exp((values - largest) / temperature) in units of 2**-40."""
    with np.errstate(over="ignore", invalid="ignore"):  # a very low temperature; -inf everywhere
        exponents = (values.astype(np.float64) - np.float64(largest)) / temperature
    return np.rint(np.exp(np.where(values < largest, exponents, 0.0)) * _ONE).astype(np.int64)


def size_of_nucleus(masses: Masses, total: int, top_p: float) -> int:
    """How many of the first tokens are left: those before which less than top_p of the mass lies, at least one."""
    before = masses.cumsum() - masses
    return max(1, int((before < top_p * total).sum()))


def _merged(of_ranks: npt.NDArray[np.int32], vocab_size: int) -> Best:
    """`of_ranks` [ranks, 2, count]: bits of float32 values, and ids. A rank without padding may hold more."""
    values, ids = of_ranks[:, 0].view(np.float32), of_ranks[:, 1].astype(np.int64)
    ends = [(values[rank, -1], ids[rank, -1]) for rank in range(len(ids)) if ids[rank, -1] != NO_TOKEN]
    unique, places = np.unique(ids, return_index=True)
    places = places[unique != NO_TOKEN]
    values, ids = values.ravel()[places], ids.ravel()[places]
    order = in_order(values, ids)
    values, ids = values[order], ids[order]
    certain = [int(((values > value) | ((values == value) & (ids <= token))).sum()) for value, token in ends]
    is_all = not ends or len(ids) == vocab_size
    return Best(values, ids, len(ids) if is_all else min(certain), is_all)


def _total_masses(shard: Shard, comm: Communicator, largest: list[np.float32], temperature: float) -> list[int]:
    """The mass of the whole vocabulary for each row. A slice that several ranks hold counts once."""
    masses = [int(masses_of(*row, temperature).sum()) for row in zip(shard.logits, largest, strict=True)]
    given = comm.allgather(torch.tensor([shard.vocabulary.start, shard.vocabulary.stop, *masses])).tolist()
    of_slices = {(start, stop): masses for start, stop, *masses in reversed(given)}  # the lowest rank's remains
    return [sum(column) for column in zip(*of_slices.values(), strict=True)]


def _last_if_certain(best: Best, total: int, temperature: float, top_p: float) -> Last | None:
    """The nucleus's last token, or None when the tokens that are certain do not reach its mass."""
    values, ids = best.values[: best.num_certain], best.ids[: best.num_certain]
    masses = masses_of(values, values[0], temperature)
    if masses.sum() < top_p * total and not best.is_all:
        return None
    last = size_of_nucleus(masses, total, top_p) - 1
    return float(values[last]), int(ids[last])
