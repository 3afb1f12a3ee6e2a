"""When the scores of a token are no finite numbers: all ranks that select find out together what is to blame."""

from collections.abc import Sequence

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.life import works
from mpi_spp.decode._job import Growing
from mpi_spp.errors import UserError
from mpi_spp.loading import Loader
from mpi_spp.model.finite import first_bad_layer, first_bad_weight, weight_problem, weights_in_order

_NONE = 2**62  # comes after every weight and layer


def not_finite(loader: Loader, sequences: Sequence[Growing], comm: Communicator) -> UserError:
    """The error that names the first weight or layer that is no number, the same on all ranks of `comm`. Collective.

    The ranks read a part of the weights each; that takes as long as loading them.
    """
    names = weights_in_order(loader.model)
    mine = range(comm.rank, len(names), comm.size)
    place = _first(comm, _first_bad_place(loader, names, mine))
    if place is not None:
        problem = weight_problem(loader.checkpoint, names[place], loader.dtype)
        return UserError(f"{loader.directory}: {problem}; the scores of tokens are no finite numbers")
    found = [first_bad_layer(one.cache, one.length) for one in sequences]
    layer = _first(comm, min((number for number in found if number is not None), default=None))
    where = "keys and values of all layers are, so look at the last one" if layer is None else _blamed(layer)
    dtype = str(loader.dtype).removeprefix("torch.")
    advice = (
        "take another model"
        if loader.dtype == torch.float32
        else f"numbers may be too large for {dtype}: take --dtype float32"
    )
    return UserError(
        f"{loader.directory}: the scores of tokens are no finite numbers, though all weights are; {where}; {advice}"
    )


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
