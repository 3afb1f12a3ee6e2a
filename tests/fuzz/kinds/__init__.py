"""One kind of input a file, by whose name it is chosen.

Each has `make(room, rng, draws) -> Case`: the base is drawn from `rng`, and each of `draws` makes one change of it.
"""

import importlib
from pathlib import Path
from types import ModuleType


def names() -> list[str]:
    """All kinds."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str) -> ModuleType:
    """The module of a kind."""
    return importlib.import_module(f"kinds.{name}")


def in_turn(names: list[str], first: int, count: int) -> list[tuple[str, int]]:
    """Cases of these kinds by name and number: so many of the endless row, without the first ones."""
    return [(names[place % len(names)], place // len(names)) for place in range(first, first + count)]
