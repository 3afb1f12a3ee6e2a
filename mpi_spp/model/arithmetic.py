"""Which back end computes a model's layers on this machine, and why."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mpi_spp.config import RunConfig
from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.choice import Products, fastest, for_auto, named, remembered, trials, working
from mpi_spp.kernels.quantized import BITS
from mpi_spp.kernels.trial import WORKS
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.loading.quantized import HEAD_BITS
from mpi_spp.system.units import show_bytes

_SHARE_OF_MEMORY = 0.8  # that widened weights may take: caches, buffers and programs need some, too


@dataclass(frozen=True)
class Chosen:
    """A back end's name, why it was chosen, what a user should know of that (empty: nothing), and its activations."""

    name: str
    why: str
    warning: str = ""
    activations: str = "exact"


@dataclass(frozen=True)
class Room:
    """Bytes on this host: what its ranks' weights would take in float32, and what there is for them."""

    widened: int
    free: int


def products_of(config: RunConfig, model: ModelConfig, dtype: torch.dtype, device: torch.device) -> Products:
    """Return the widest products of a model's layers, which the choice is made for."""
    bits = None if config.quantize is None else BITS[config.quantize]
    return Products(
        (2 * model.widest, model.hidden_size), dtype, device, bits, config.quantize_group_size, config.activations
    )


def room_on_host(model: ModelConfig, copies: float, free: int) -> Room:
    """Return what so many copies of a model's weights would take; `free`: bytes."""
    numbers = model.layer_parameters * model.num_hidden_layers + model.vocab_size * model.hidden_size
    return Room(int(4 * numbers * copies), free)


def bytes_of_weights(model: ModelConfig, kernels: str, dtype: torch.dtype, scheme: str | None) -> tuple[float, float]:
    """About what a layer takes in memory, and a row of the head: no more than a product, for a first look.

    What is exact (`sizes.py`) imports parts of torch that no other work of a run needs, for a second.
    """
    of_layer = of_head = float(dtype.itemsize)
    if kernels == "widened":  # in float32, codes too
        of_layer = of_head = 4.0
    elif scheme is not None:
        of_layer, of_head = BITS[scheme] / 8, HEAD_BITS / 8
    return model.layer_parameters * of_layer, model.hidden_size * of_head


def choose(wanted: str, products: Products, room: Room, directory: Path) -> Chosen:
    """Return the back end that `--kernels` asks for, or the fastest one that works and fits. May take seconds.

    `directory`: where kernels, trials and measurements are kept. Raises UserError where the one asked for cannot run.
    """
    if wanted != "auto":
        name = named(wanted, products, directory)
        return Chosen(name, "asked for", _warning_of_activations(name, products), _activations(name, products))
    names = working(products.dtype, products.device, directory, products.bits is not None)
    fitting, excluded = _that_fit(for_auto(names), room)
    name = fastest(products, directory, fitting)
    others = [one for one in fitting if one != name]
    why = f"measured as faster than {', '.join(others)}" if others else "the only one that works here"
    warnings = (_warning(name, products, room, directory), _warning_of_activations(name, products))
    return Chosen(name, why + excluded, "; ".join(filter(None, warnings)), _activations(name, products))


def likely(wanted: str, products: Products, threads: int, directory: Path) -> str:
    """Return the back end that a run would take: what was measured as fastest, else the likeliest."""
    if wanted != "auto":
        return named(wanted, products, directory)
    names = for_auto(working(products.dtype, products.device, directory, products.bits is not None))
    order = ("blockwise", "plain", "widened", "packed")
    guess = max(names, key=lambda name: len(order) if is_native(name) else order.index(name))
    return remembered(products, threads, directory, names) or guess


def _that_fit(names: list[str], room: Room) -> tuple[list[str], str]:
    """Return the names without the one whose weights would be too large, and what to say of that."""
    if "widened" not in names or room.widened <= _SHARE_OF_MEMORY * room.free:
        return names, ""
    told = f"widened would need {show_bytes(room.widened)} here, {show_bytes(room.free)} are free"
    return [name for name in names if name != "widened"], f"; {told}"


def _activations(name: str, products: Products) -> str:
    """Return what the products of a back end do with activations."""
    return products.activations if is_native(name) else "exact"


def _warning_of_activations(name: str, products: Products) -> str:
    if _activations(name, products) == products.activations:
        return ""
    return f"activations stay exact: {name} kernels have no products of {products.activations} ones"


def _warning(name: str, products: Products, room: Room, directory: Path) -> str:
    """Return what makes a run slower or larger than the user may expect."""
    if products.device.type != "cpu":
        return ""
    tried, told = trials(products.dtype, directory), []
    told += [f"no {one} kernels ({result})" for one, result in tried.items() if is_native(one) and result != WORKS]
    what = str(products.dtype).removeprefix("torch.") if products.bits is None else f"{products.bits} bits"
    if name == "widened":
        told.append(
            f"weights of {what} are held in float32, {show_bytes(room.widened)} for the ranks of this host, since no"
            " faster kernels for them work here; --kernels blockwise takes less memory"
        )
    if name == "blockwise":
        told.append(f"weights of {what} keep their bits and are widened block by block for every product")
    return "; ".join(told)
