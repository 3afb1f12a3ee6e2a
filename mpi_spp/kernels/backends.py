"""The back ends by name, and which of them can be meant for a dtype and a device. Whether they work, a trial tells."""

from pathlib import Path

import torch

from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.plain import Packed, Plain
from mpi_spp.kernels.widened import Blockwise, Widened

NATIVE = "native"  # the best of the variants of this name
WIDENING = ("widened", "blockwise")  # those that multiply in float32 whatever the weights are


def is_native(name: str) -> bool:
    """Return whether this is the name of a variant of the native kernels."""
    return name.partition("-")[0] == NATIVE


def names_for(dtype: torch.dtype, device: torch.device, is_quantized: bool) -> list[str]:
    """Return the back ends that there are for this dtype, this device, and weights that are quantised or not.

    Of the variants of the native kernels all that have their instructions here, the best first.
    """
    if device.type != "cpu":
        return ["plain"]
    variants = [f"{NATIVE}-{variant}" for variant in library.runnable(dtype)]
    if is_quantized:
        return [*WIDENING, *variants]
    packed = ["packed"] if torch.backends.mkldnn.is_available() else []
    slow = () if dtype == torch.float32 else WIDENING
    return ["plain", *packed, *slow, *variants]


def make(name: str, dtype: torch.dtype, directory: Path, activations: str = "exact") -> Plain:
    """Make a back end for a dtype. `directory`: where kernels are kept. NoKernels where they cannot be compiled.

    `activations`: of native products with weights of 4 bits; others have exact ones.
    """
    if is_native(name):
        return Native(library.load(name.partition("-")[2], directory, dtype), activations, dtype)
    makers = {
        "plain": Plain,
        "packed": Packed,
        "widened": lambda: Widened(Packed() if torch.backends.mkldnn.is_available() else Plain()),
        "blockwise": Blockwise,
    }
    return makers[name]()
