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
from dataclasses import dataclass, fields
from functools import cache

from reference_models import RECIPES

from mpi_spp import registry
from mpi_spp.config import GRANULARITIES, QUANTIZE, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.mesh import Mesh, parse_mesh
from mpi_spp.partition import CONTEXT_SPLITS
from mpi_spp.strategies import load_strategies

RANKS = (1, 2, 3, 4, 5, 7)
MANY_RANKS = 7  # more than heads of keys and values; slow on few cores, so that only a small share has them
FEW_RANKS = (2, 3)  # which take what asks for no number
NONE = "-"  # an axis that says nothing here
WITH_EXPERTS = [name for name, one in RECIPES.items() if "moe" in one.model_type or one.model_type == "mixtral"]
NUMBERS = ("float32/plain", "float32/packed", "bfloat16/plain", "bfloat16/packed", "bfloat16/native", "float16/plain")
FREE_AXES = {  # "many" and "few": as many chunks as pay on a slow machine, and on a fast one
    "model": tuple(RECIPES),
    "chunks": ("1", "7", "128", "many", "few"),
    "prompts": ("1,37,100", "1,37", "100"),
    "numbers": NUMBERS,
    "kv_cache": ("auto", "int8"),
    "quantize": (NONE, *QUANTIZE),
}
PRECISION = ("numbers", "kv_cache", "quantize")
_OF_MANY_RANKS = ("shape", "prefill", "sync", "decode", "granularity", "context_split", "layers")
_TRIES = 4000  # what is still to be covered, that a run is made of

Assignment = dict[str, str]
Element = tuple[tuple[str, str], ...]  # values of axes that should come together in some run


@dataclass(frozen=True)
class Case:
    """One run; its text names it, and is read again by `parse`."""

    ranks: str
    mesh: str
    model: str
    prefill: str
    sync: str
    decode: str
    granularity: str
    context_split: str
    layers: str
    chunks: str
    prompts: str
    numbers: str
    kv_cache: str
    quantize: str

    def __str__(self) -> str:
        return " ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self))

    @property
    def axes(self) -> Assignment:
        """The value of every axis; of the mesh it is the shape, of the numbers also whether they are exact."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "mesh"}
        values["shape"] = shape_of(parse_mesh(self.mesh))
        exact = self.numbers.startswith("float32") and self.kv_cache == "auto" and self.quantize == NONE
        return values | ({"exact": "yes"} if exact else {})

    @property
    def lengths(self) -> list[int]:
        """Of the prompts, which are answered together."""
        return [int(length) for length in self.prompts.split(",")]


@dataclass(frozen=True)
class Frame:
    """Strategies on a mesh, and what the other axes can say of them."""

    mesh: Mesh
    prefill: str
    sync: str
    decode: str
    granularities: Sequence[str]
    context_splits: Sequence[str]
    layers: Sequence[str]

    def allows(self, axis: str, value: str) -> bool:
        """Whether a run in this frame can have the value."""
        if axis == "model":
            return self.mesh.ep == 1 or value in WITH_EXPERTS
        own = {"ranks": str(self.mesh.size), "shape": shape_of(self.mesh)}
        own |= {"prefill": self.prefill, "sync": self.sync, "decode": self.decode}
        several = {"granularity": self.granularities, "context_split": self.context_splits, "layers": self.layers}
        return value in several[axis] if axis in several else axis not in own or own[axis] == value


def parse(text: str) -> Case:
    """The case that a text names. Raises ValueError for any other text, and for what cannot run."""
    given = dict(part.partition("=")[::2] for part in text.split())
    if given.keys() != {one.name for one in fields(Case)}:
        raise ValueError(f"{text!r} is no case; give the whole text that a session has printed")
    case = Case(**given)
    if not is_valid(case):
        raise ValueError(f"{text!r} cannot run: its values do not go together")
    return case


def is_valid(case: Case) -> bool:
    """Whether its values go together."""
    known = all(getattr(case, axis) in values for axis, values in FREE_AXES.items() if axis != "numbers")
    fitting = (frame for frame in frames() if str(frame.mesh) == case.mesh)
    axes = case.axes
    return known and not clash(axes) and any(all(map(one.allows, axes, axes.values())) for one in fitting)


def clash(values: Assignment) -> bool:
    """Whether these values exclude one another, on whatever ranks."""
    if values.get("exact"):
        others = (values.get("kv_cache", "auto") != "auto", values.get("quantize", NONE) != NONE)
        return any(others) or not values.get("numbers", "float32").startswith("float32")
    return False if values.get("chunks") != "1" else "100" in values.get("prompts", "")  # would take the most time


def shape_of(mesh: Mesh) -> str:
    """The axes that are split."""
    return "+".join(axis for axis in ("pp", "ep", "tp") if getattr(mesh, axis) > 1) or "one"


def meshes_of(size: int) -> list[Mesh]:
    """All grids of so many ranks."""
    divisors = [count for count in range(1, size + 1) if size % count == 0]
    sizes = itertools.product(divisors, divisors, divisors)
    return [Mesh(pp=pp, ep=ep, tp=tp) for pp, ep, tp in sizes if pp * ep * tp == size]


@cache
def frames() -> list[Frame]:
    """All triples on all meshes on which they are valid."""
    meshes = [mesh for size in RANKS for mesh in meshes_of(size)]
    return [frame for mesh in meshes for frame in _frames_on(mesh)]


def _frames_on(mesh: Mesh) -> Iterator[Frame]:
    for prefill, sync, decode in itertools.product(*map(registry.choices, registry.VERBS)):
        config = RunConfig(model="any", prefill=prefill, sync_strategy=sync, decode=decode)
        try:
            chosen = load_strategies(config, mesh)
        except UserError:
            continue
        of_phases = (chosen.prefill_places[0], chosen.decode_places[0])
        kept = [(one.num_stages, one.num_shards, one.num_parts) for one in of_phases]
        yield Frame(
            mesh,
            prefill,
            sync,
            decode,
            GRANULARITIES if kept[0] != kept[1] else (NONE,),
            CONTEXT_SPLITS if of_phases[0].num_parts > 1 else (NONE,),
            ("even", "first", "last", "auto") if chosen.num_stages > 1 else (NONE,),
        )


def of_session(ranks: int) -> list[Case]:
    """Those of a session with so many ranks, by what `run.py` has set in the environment: on all ranks the same.

    With MPI_SPP_TEST_CASE that one alone; of MPI_SPP_TEST_MOST only so many, with numbers of all kinds.
    """
    if text := os.environ.get("MPI_SPP_TEST_CASE"):
        return [case for case in [parse(text)] if case.ranks == str(ranks)]
    found = [case for case in draw(seed_here(), numbers_here()) if case.ranks == str(ranks)]
    most = int(os.environ.get("MPI_SPP_TEST_MOST", len(found)))
    alike = {number: [case for case in found if case.numbers == number] for number in NUMBERS}
    turns = itertools.chain.from_iterable(itertools.zip_longest(*alike.values()))
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
            for axis, value in _values_of(frame):
                self._masks[axis, value] |= 1 << number
        spread = sum(1 << number for number, frame in enumerate(self._frames) if frame.mesh.ep > 1)
        for name in RECIPES.keys() - set(WITH_EXPERTS):
            self._masks["model", name] = ~spread
        self._all = (1 << len(self._frames)) - 1
        self._several = sum(1 << number for number, frame in enumerate(self._frames) if frame.mesh.size > 1)

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
                mask = self._mask(element) & (self._several if "decode" in axes and "prefill" in axes else -1)
                if mask and self._is_wanted(dict(element)) and not clash(dict(element)):
                    found.add(element)
        return found

    def _is_wanted(self, values: Assignment) -> bool:
        silent = any(values.get(axis) == NONE for axis in ("granularity", "context_split", "layers"))
        return not silent and (values.get("ranks") != str(MANY_RANKS) or values.keys() <= {"ranks", *_OF_MANY_RANKS})

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
        of_frame = list(_values_of(frame))
        self._drawing.shuffle(of_frame)
        for axis, value in of_frame:
            values.setdefault(axis, value)
        return Case(mesh=str(frame.mesh), **{one.name: values[one.name] for one in fields(Case) if one.name != "mesh"})


def _values_of(frame: Frame) -> Iterator[tuple[str, str]]:
    """Of all axes that a frame decides."""
    yield from (("ranks", str(frame.mesh.size)), ("shape", shape_of(frame.mesh)))
    yield from (("prefill", frame.prefill), ("sync", frame.sync), ("decode", frame.decode))
    of_axes = (("granularity", frame.granularities), ("context_split", frame.context_splits), ("layers", frame.layers))
    yield from ((axis, value) for axis, values in of_axes for value in values)


@cache
def _element_axes() -> list[tuple[str, ...]]:
    """Which axes should meet."""
    axes = ["ranks", "shape", "prefill", "sync", "decode", "granularity", "context_split", "layers", *FREE_AXES]
    exact = [("exact", *pair) for pair in itertools.combinations(axes, 2) if not set(pair) & set(PRECISION)]
    return [*itertools.combinations(axes, 2), *exact, ("exact", "prefill", "sync", "decode")]


def axes_of(element: Element) -> tuple[str, ...]:
    """Without the values."""
    return tuple(axis for axis, _ in element)


def elements_of(values: Assignment) -> Iterator[Element]:
    """All that a run with these values covers."""
    for axes in _element_axes():
        if all(axis in values for axis in axes):
            yield tuple((axis, values[axis]) for axis in axes)
