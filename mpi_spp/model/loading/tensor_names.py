"""Where a tensor lies in the files: under its own name, an older one, or within one that holds all experts.

Names may lack the `model.` in front, or have it once more, as transformers allows.

Source: `conversion_mapping.py` of transformers 5, whose `save_pretrained` writes either form.
"""

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

_EXPERT = re.compile(r"(?P<prefix>.*\.mlp\.experts\.)(?P<number>\d+)\.(?P<kind>gate|up|down)_proj\.weight")
_PREFIX = "model."
_OF_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}


@dataclass(frozen=True)
class Stored:
    """The name in the files; there the matrix of an expert, where it is one of several; of that the upper half or the
    lower one, where gate and up are one matrix."""

    name: str
    expert: int | None = None
    half: int | None = None


class Part:
    """What `Stored` says of a slice of safetensors: to be read in part, too."""

    def __init__(self, whole: Any, stored: Stored) -> None:
        self._whole, self._expert, self.name = whole, stored.expert, stored.name
        self.dtype: str = whole.get_dtype()
        self.shape: tuple[int, ...] = tuple(whole.get_shape())
        self.complete = stored.expert is None or (len(self.shape) == 3 and self.shape[0] > stored.expert)
        self._first = 0
        if stored.expert is None or not self.complete:
            return
        rows, columns = self.shape[1:]
        if stored.half is not None:
            rows //= 2
            self._first = stored.half * rows
        self.shape = (rows, columns)

    def read(self, rows: range | None = None, columns: range | None = None) -> Any:
        """These rows (dim 0) or columns (dim 1); all without."""
        if self._expert is None and columns is None:
            return self._whole[:] if rows is None else self._whole[rows.start : rows.stop]
        rows = range(self.shape[0]) if rows is None else rows
        columns = range(self.shape[1]) if columns is None else columns
        places = slice(self._first + rows.start, self._first + rows.stop), slice(columns.start, columns.stop)
        return self._whole[places] if self._expert is None else self._whole[(self._expert, *places)]


def find(name: str, names: Container[str]) -> Stored | None:
    """Where the tensor of this name lies among these; None: nowhere."""
    found = (replace(one, name=spelled) for one in _spellings(name) for spelled in _prefixed(one.name))
    return next((stored for stored in found if stored.name in names), None)


def _prefixed(name: str) -> list[str]:
    """With and without what the names of a model within another begin with; of several the first in order counts."""
    return sorted({name, name.removeprefix(_PREFIX), _PREFIX + name})


def _spellings(name: str) -> list[Stored]:
    """As it may be stored, the likeliest first."""
    found = [Stored(name)]
    mixtral = name.replace(".mlp.", ".block_sparse_moe.")
    if name.endswith(".mlp.gate.weight"):
        found.append(Stored(mixtral))
    if expert := _EXPERT.fullmatch(name):
        number, kind = int(expert["number"]), expert["kind"]
        found.append(Stored(mixtral.replace(f"{kind}_proj", _OF_MIXTRAL[kind])))
        stack = f"{expert['prefix']}{'down' if kind == 'down' else 'gate_up'}_proj"
        found.append(Stored(stack, number, None if kind == "down" else int(kind == "up")))
    return found
