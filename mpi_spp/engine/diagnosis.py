"""When the scores of a token are no finite numbers: all ranks that select find out together what is to blame."""

from collections.abc import Callable, Sequence

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.world import abort_with
from mpi_spp.engine.loading import Loader
from mpi_spp.errors import UserError
from mpi_spp.model.loading.finite import first_bad_layer, first_bad_weight, weight_problem, weights_in_order
from mpi_spp.strategies.decode._job import SequenceState
from mpi_spp.strategies.sampling.shard import NOT_FINITE

Fail = Callable[[int, UserError], None]  # told the number of a request, and why it has no next token
_NONE = 2**62  # comes after every weight and layer


class Diagnosis:
    """Names the first weight or layer that is no number, the same on all ranks of `comm`. Its methods are collective.

    `aborts`: the job ends at once where the run does, since other ranks would not hear of an error.
    """

    def __init__(self, loader: Loader, comm: Communicator, aborts: bool) -> None:
        self._loader, self._comm, self._aborts = loader, comm, aborts
        self._weights_are_finite = False  # until they were looked at

    def end_without_token(self, sequences: Sequence[SequenceState], tokens: torch.Tensor, fail: Fail | None) -> None:
        """End those sequences that have no token, and tell `fail`; or the run, without it or for weights."""
        bad = [one for one, token in zip(sequences, tokens.tolist(), strict=True) if token >= NOT_FINITE]
        if not bad:
            return
        error = self._of_weights()
        if error is None and fail is None:
            error = self._of_layers(bad)
        if error is not None:
            if self._aborts:
                abort_with(error)
            raise error
        assert fail is not None
        for one in bad:
            one.finished = True
            fail(one.number, self._of_layers([one]))

    def _of_weights(self) -> UserError | None:
        """What is wrong with the weights. The ranks read a part of them each, once, which takes as long as loading."""
        if self._weights_are_finite:
            return None
        loader, comm = self._loader, self._comm
        names = weights_in_order(loader.model)
        mine = range(comm.rank, len(names), comm.size)
        place = _first(comm, _first_bad_place(loader, names, mine))
        self._weights_are_finite = place is None
        if place is None:
            return None
        problem = weight_problem(loader.checkpoint, names[place], loader.dtype)
        return UserError(f"{loader.directory}: {problem}; the scores of tokens are no finite numbers")

    def _of_layers(self, sequences: Sequence[SequenceState]) -> UserError:
        """The same, of finite weights: which layers made numbers that are none of these sequences."""
        found = [first_bad_layer(one.cache, one.length) for one in sequences]
        layer = _first(self._comm, min((number for number in found if number is not None), default=None))
        where = "keys and values of all layers are, so look at the last one" if layer is None else _blamed(layer)
        dtype = str(self._loader.dtype).removeprefix("torch.")
        advice = (
            "take another model"
            if self._loader.dtype == torch.float32
            else f"numbers may be too large for {dtype}: take --dtype float32"
        )
        told = f"the scores of tokens are no finite numbers, though all weights are; {where}; {advice}"
        return UserError(f"{self._loader.directory}: {told}")


def _first_bad_place(loader: Loader, names: Sequence[str], mine: range) -> int | None:
    checked = first_bad_weight(loader.checkpoint, [names[place] for place in mine], loader.dtype)
    for place, problem in zip(mine, checked, strict=False):
        works()
        if problem is not None:
            return place
    return None


def _first(comm: Communicator, own: int | None) -> int | None:
    """The lowest number that any rank has found."""
    lowest = int(comm.allgather(torch.tensor([_NONE if own is None else own])).min())
    return None if lowest == _NONE else lowest


def _blamed(layer: int) -> str:
    before = f"layers {layer - 1} and {layer}" if layer else "the embedding and layer 0"
    return f"the first keys or values that are not are those of layer {layer}, so look at {before}"
