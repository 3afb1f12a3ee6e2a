"""The runs of the rank tests: few that cover much, each with its own number of ranks, drawn by a seed.

All triples of prefill, sync and decode that are valid come, and all pairs of the values of all axes that can come
together (of kernels only with what they know of, else of dtypes); those that say nothing of numbers' precision with
exact numbers, too, where tokens must be the same. What is valid is asked of the
registries and of `load_strategies`, so that a new strategy's file is covered unasked.
"""

import itertools
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import Generic, TypeVar

from cases import (
    DTYPES,
    FREE_AXES,
    NONE,
    NUMBERS,
    PRECISION,
    Assignment,
    Case,
    clash,
    frames,
    parse,
    values_of,
)

MANY_RANKS = "7"  # more than heads of keys and values; slow on few cores, so that only a small share has them
FEW_RANKS = (2, 3)  # which take what asks for no number
_OF_MANY_RANKS = ("shape", "prefill", "sync", "decode", "granularity", "context_split", "layers")
# What kernels know nothing of, but the numbers that travel may be of any dtype.
BY_DTYPE = ("model", "shape", "sync", "granularity", "context_split", "layers", "prompts")
OTHERS = ("model", "chunks", "prompts")
_QUICK = {"128": 9, "few": 9, "7": 3, "many": 3, "1,37": 3, "71": 3}  # where nothing asks for more work
_TRIES = 4000  # what is still to be covered, that a run is made of

T = TypeVar("T")
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

    from mpi_spp.kernels.choice import ALL, BEST, working
    from mpi_spp.model.loading.hub import cache_directory

    kept, found = cache_directory() / "kernels", []
    for dtype, is_quantized in itertools.product(DTYPES, (False, True)):
        variants = ALL if dtype == "bfloat16" else BEST
        names = working(getattr(torch, dtype), torch.device("cpu"), kept, is_quantized, variants)
        found += [one for name in names if (one := f"{dtype}/{name}") in NUMBERS]
    return list(dict.fromkeys(found))


def draw(seed: int, numbers: Sequence[str] = NUMBERS) -> list[Case]:
    """The runs of a seed. `numbers`: those that this machine has."""
    return Design(random.Random(seed), numbers).cases()


class Choices(Generic[T]):
    """Things to choose from, by the values that they allow. A set of them is the bits of an integer."""

    def __init__(self, things: Sequence[T], values_of: Callable[[T], Iterable[tuple[str, str]]]) -> None:
        self._things, self.masks = things, defaultdict[tuple[str, str], int](int)
        for number, thing in enumerate(things):
            for one in values_of(thing):
                self.masks[one] |= 1 << number
        self._axes = {axis for axis, _ in self.masks}

    def mask(self, values: Iterable[tuple[str, str]]) -> int:
        """Those that allow all these values; axes that they know nothing of exclude none."""
        found = (1 << len(self._things)) - 1
        for one in values:
            found &= self.masks.get(one, 0 if one[0] in self._axes else -1)
        return found

    def of(self, mask: int) -> list[T]:
        """The things of a set."""
        return [thing for number, thing in enumerate(self._things) if mask >> number & 1]


class Design:
    """Takes runs until everything that should be covered is: each is made of much that is not yet."""

    def __init__(self, drawing: random.Random, numbers: Sequence[str]) -> None:
        self._drawing = drawing
        self._frames, self._precisions = Choices(frames(), values_of), Choices(precisions(numbers), precision_values)

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
        others = ((axis, value) for axis in OTHERS for value in FREE_AXES[axis])
        for axis, value in dict.fromkeys([*self._frames.masks, *self._precisions.masks, *others]):
            values[axis].append(value)
        found = set[Element]()
        for axes in _element_axes():
            for chosen in itertools.product(*(values[axis] for axis in axes)):
                element = tuple(zip(axes, chosen, strict=True))
                if _is_wanted(dict(element)) and self._is_possible(dict(element)):
                    found.add(element)
        return found

    def _is_possible(self, values: Assignment) -> bool:
        """Whether some run has these values."""
        pairs = values.items()
        return bool(self._frames.mask(pairs)) and bool(self._precisions.mask(pairs)) and not clash(values)

    def _assignment(self, left: Iterable[Element]) -> Assignment:
        """The first element that is left, and of those behind it all that go with it."""
        values = Assignment()
        for element in itertools.islice(left, _TRIES):
            if all(values.get(axis, value) == value for axis, value in element):
                both = values | dict(element)
                values = both if self._is_possible(both) else values
        return values

    def _complete(self, values: Assignment) -> Case:
        """A run with these values; of the others, those that are exact and quick where nothing asks for more."""
        values = values | dict(self._precisions.of(self._precisions.mask(values.items()))[0])
        for axis in OTHERS:
            able = [one for one in FREE_AXES[axis] if self._is_possible(values | {axis: one})]
            values.setdefault(axis, self._drawing.choices(able or [""], [_QUICK.get(one, 1) for one in able] or [1])[0])
        fitting = self._frames.of(self._frames.mask(values.items()))
        (frame,) = self._drawing.choices(fitting, [one.mesh.size in FEW_RANKS or 0.01 for one in fitting])
        of_frame = list(values_of(frame))
        self._drawing.shuffle(of_frame)
        for axis, value in of_frame:
            values.setdefault(axis, value)
        return Case(mesh=str(frame.mesh), **{one.name: values[one.name] for one in fields(Case) if one.name != "mesh"})


def precisions(numbers: Sequence[str]) -> list[dict[str, str]]:
    """All ways to compute, the plain and exact one first."""
    choices = FREE_AXES | {"numbers": numbers}
    found = (
        dict(zip(PRECISION, one, strict=True)) for one in itertools.product(*(choices[axis] for axis in PRECISION))
    )
    return [one for one in found if not clash(one)]


def precision_values(precision: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Of all axes that it decides."""
    dtype = precision["numbers"].split("/")[0]
    yield from precision.items()
    yield "dtype", dtype
    if dtype == "float32" and precision["kv_cache"] == "auto" and precision["quantize"] == NONE:
        yield "exact", "yes"


def _is_wanted(values: Assignment) -> bool:
    silent = any(values.get(axis) == NONE for axis in ("granularity", "context_split", "layers"))
    return not silent and (values.get("ranks") != MANY_RANKS or values.keys() <= {"ranks", *_OF_MANY_RANKS})


@cache
def _element_axes() -> list[tuple[str, ...]]:
    """Which axes should meet."""
    axes = ["ranks", "shape", "prefill", "sync", "decode", "granularity", "context_split", "layers", *FREE_AXES]
    exact = [("exact", *pair) for pair in itertools.combinations(axes, 2) if not set(pair) & set(PRECISION)]
    pairs = [pair for pair in itertools.combinations(axes, 2) if pair[1] != "numbers" or pair[0] not in BY_DTYPE]
    more = [("dtype", axis) for axis in BY_DTYPE] + [("experts", "numbers")]
    # Kernels meet sums over ranks, which a run on one rank does not have.
    more += [("several", "prefill", "numbers"), ("several", "decode", "numbers")]
    return [*pairs, *exact, *more, ("exact", "several", "prefill", "sync", "decode")]


def axes_of(element: Element) -> tuple[str, ...]:
    """Without the values."""
    return tuple(axis for axis, _ in element)


def elements_of(values: Assignment) -> Iterator[Element]:
    """All that a run with these values covers."""
    for axes in _element_axes():
        if all(axis in values for axis in axes):
            yield tuple((axis, values[axis]) for axis in axes)
