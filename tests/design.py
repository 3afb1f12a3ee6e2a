"""The runs of the rank tests: few that cover much, each with its own number of ranks, drawn by a seed.

All triples of prefill, sync and decode that are valid come, and all pairs of the values of all axes that can come
together; those that say nothing of numbers' precision with exact numbers, too, where tokens must be the same. What is
valid is asked of the registries and of `load_strategies`, so that a new strategy's file is covered unasked.
"""

import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cache

from cases import FREE_AXES, NONE, NUMBERS, PRECISION, WITH_EXPERTS, Assignment, Case, clash, frames, parse, values_of
from reference_models import RECIPES

MANY_RANKS = "7"  # more than heads of keys and values; slow on few cores, so that only a small share has them
FEW_RANKS = (2, 3)  # which take what asks for no number
_OF_MANY_RANKS = ("shape", "prefill", "sync", "decode", "granularity", "context_split", "layers")
_TRIES = 4000  # what is still to be covered, that a run is made of

Element = tuple[tuple[str, str], ...]  # values of axes that should come together in some run


def of_session(ranks: int) -> list[Case]:
    """Those of a session with so many ranks, by what `run.py` has set in the environment: on all ranks the same.

    With MPI_SPP_TEST_CASE that one alone; of MPI_SPP_TEST_MOST only so many, with numbers of all kinds.
    """
    if text := os.environ.get("MPI_SPP_TEST_CASE"):
        return [case for case in [parse(text)] if case.ranks == str(ranks)]
    found = [case for case in draw(seed_here(), numbers_here()) if case.ranks == str(ranks)]
    most = int(os.environ.get("MPI_SPP_TEST_MOST", len(found)))
    alike = [[case for case in found if case.numbers == one] for one in dict.fromkeys(case.numbers for case in found)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*alike))
    return found if most >= len(found) else list(itertools.islice(filter(None, turns), most))


def seed_here() -> int:
    """What `bin/test --seed` has set, or the runner: else always the same one."""
    return int(os.environ.get("MPI_SPP_TEST_SEED", "0"))


def numbers_here() -> list[str]:
    """The dtypes and kernels that this machine has."""
    import torch

    from mpi_spp.kernels.choice import backends
    from mpi_spp.model.store import cache_directory

    dtypes = dict.fromkeys(one.split("/")[0] for one in NUMBERS)
    kept = cache_directory() / "kernels"
    found = {dtype: backends(getattr(torch, dtype), torch.device("cpu"), kept) for dtype in dtypes}
    return [f"{dtype}/{kernels}" for dtype in dtypes for kernels in found[dtype]]


def draw(seed: int, numbers: Sequence[str] = NUMBERS) -> list[Case]:
    """The runs of a seed. `numbers`: those that this machine has."""
    return Design(random.Random(seed), numbers).cases()


class Design:
    """Takes runs until everything that should be covered is: each is made of much that is not yet.

    A set of frames is the bits of an integer: those in which all values of an assignment can come are found by `&`.
    """

    def __init__(self, drawing: random.Random, numbers: Sequence[str]) -> None:
        self._drawing, self._free = drawing, FREE_AXES | {"numbers": tuple(numbers), "exact": ("yes",)}
        self._frames, self._masks = frames(), defaultdict[tuple[str, str], int](int)
        self._masks |= {(axis, value): -1 for axis, values in self._free.items() for value in values}
        for number, frame in enumerate(self._frames):
            for axis, value in values_of(frame):
                self._masks[axis, value] |= 1 << number
        spread = sum(1 << number for number, frame in enumerate(self._frames) if frame.mesh.ep > 1)
        for name in RECIPES.keys() - set(WITH_EXPERTS):
            self._masks["model", name] = ~spread
        self._all = (1 << len(self._frames)) - 1

    def cases(self) -> list[Case]:
        """As few as the drawing finds."""
        wanted = sorted(self.elements())
        self._drawing.shuffle(wanted)
        left, made = dict.fromkeys(wanted), list[Case]()
        while left:
            made.append(self._complete(self._assignment(left)))
            for element in elements_of(made[-1].axes):
                left.pop(element, None)
        return sorted(made, key=str)

    def elements(self) -> set[Element]:
        """All that should be covered."""
        values = defaultdict[str, list[str]](list)
        for axis, value in self._masks:
            values[axis].append(value)
        found = set[Element]()
        for axes in _element_axes():
            for chosen in itertools.product(*(values[axis] for axis in axes)):
                element = tuple(zip(axes, chosen, strict=True))
                if self._mask(element) and self._is_wanted(dict(element)) and not clash(dict(element)):
                    found.add(element)
        return found

    def _is_wanted(self, values: Assignment) -> bool:
        silent = any(values.get(axis) == NONE for axis in ("granularity", "context_split", "layers"))
        return not silent and (values.get("ranks") != MANY_RANKS or values.keys() <= {"ranks", *_OF_MANY_RANKS})

    def _mask(self, values: Iterable[tuple[str, str]]) -> int:
        mask = self._all
        for one in values:
            mask &= self._masks[one]
        return mask

    def _assignment(self, left: Iterable[Element]) -> Assignment:
        """The first element that is left, and of those behind it all that go with it."""
        values, mask = Assignment(), self._all
        for element in itertools.islice(left, _TRIES):
            if any(values.get(axis, value) != value for axis, value in element):
                continue
            both = mask & self._mask(element)
            if both and not clash(values | dict(element)):
                values |= dict(element)
                mask = both
        return values

    def _complete(self, values: Assignment) -> Case:
        """A run with these values; of the others, those that are exact and quick where nothing asks for more."""
        mask = self._mask(values.items())
        for axis, choices in self._free.items():
            able = [one for one in choices if mask & self._masks[axis, one] and not clash(values | {axis: one})]
            if axis not in values and able:  # nothing is, where the numbers are not exact
                values[axis] = able[0] if axis in PRECISION else self._drawing.choice(able)
                mask &= self._masks[axis, values[axis]]
        fitting = [one for number, one in enumerate(self._frames) if mask >> number & 1]
        (frame,) = self._drawing.choices(fitting, [one.mesh.size in FEW_RANKS or 0.01 for one in fitting])
        of_frame = list(values_of(frame))
        self._drawing.shuffle(of_frame)
        for axis, value in of_frame:
            values.setdefault(axis, value)
        return Case(mesh=str(frame.mesh), **{one.name: values[one.name] for one in fields(Case) if one.name != "mesh"})


@cache
def _element_axes() -> list[tuple[str, ...]]:
    """Which axes should meet."""
    axes = ["ranks", "shape", "prefill", "sync", "decode", "granularity", "context_split", "layers", *FREE_AXES]
    exact = [("exact", *pair) for pair in itertools.combinations(axes, 2) if not set(pair) & set(PRECISION)]
    return [*itertools.combinations(axes, 2), *exact, ("exact", "several", "prefill", "sync", "decode")]


def axes_of(element: Element) -> tuple[str, ...]:
    """Without the values."""
    return tuple(axis for axis, _ in element)


def elements_of(values: Assignment) -> Iterator[Element]:
    """All that a run with these values covers."""
    for axes in _element_axes():
        if all(axis in values for axis in axes):
            yield tuple((axis, values[axis]) for axis in axes)
