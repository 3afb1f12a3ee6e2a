"""Keeps out of the program what transformers needs for models of its own, which are not used here."""

import importlib
import sys
from contextlib import suppress
from types import ModuleType

_CHECKS = "transformers.utils.type_validators"
_ACTIVATIONS = "transformers.activations"
_HUB_KERNELS = "transformers.integrations.hub_kernels"


def import_checks_alone() -> None:
    """Import transformers' checks of configurations; to be called before it reads a configuration or a tokenizer.

    To know the names of the activations they import these, and so torch's compiler, its distributed tensors and
    accelerate: 900 modules, 1.3 s on rank 0's way to the first token. A stand-in keeps them out while the checks are
    imported. It is then taken away with the activations, so that whoever runs such models gets the true ones.
    """
    if not sys.modules.keys().isdisjoint({_CHECKS, _ACTIVATIONS, _HUB_KERNELS}):
        return
    stand_in = ModuleType(_HUB_KERNELS)
    vars(stand_in)["use_kernel_forward_from_hub"] = lambda *_: lambda layer: layer
    sys.modules[_HUB_KERNELS] = stand_in
    try:
        with suppress(ImportError):  # of a version that wants more of it: its own import comes later, and is slower
            importlib.import_module(_CHECKS)
    finally:
        for name in (_HUB_KERNELS, _ACTIVATIONS):
            sys.modules.pop(name, None)
