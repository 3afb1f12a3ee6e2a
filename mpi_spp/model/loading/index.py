"""The names of the files that weights are in, and the index of those that are in several."""

import os
from pathlib import Path

from mpi_spp.errors import UserError
from mpi_spp.system.files import MIB, read_json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_BYTES = 64 * MIB  # the largest we know, of 140,000 tensors, has 13 MB


def read_index(directory: Path) -> dict[str, str]:
    """The file of each tensor. Raises UserError for what is no index."""
    path = directory / INDEX
    weight_map = read_json_object(str(path), path, _MOST_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise UserError(f"{path}: is not a safetensors index (its 'weight_map' must give a file for each tensor)")
    for file in set(weight_map.values()):
        if os.path.isabs(file) or ".." in Path(file).parts:
            raise UserError(f"{path}: {file!r} is outside of the model's directory; get the index again")
    return weight_map
