"""The runs of the rank tests: one is named by its text, and valid where registries and `load_strategies` say so."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache

from reference_models import RECIPES

from mpi_spp.config import GRANULARITIES, QUANTIZE, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.kernels.backends import WIDENING
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh, parse_mesh
from mpi_spp.parallel.partition import CONTEXT_SPLITS
from mpi_spp.strategies.assignment import load_strategies

RANKS = ("1", "2", "3", "4", "5", "7")
NONE = "-"  # an axis that says nothing here
WITH_EXPERTS = [name for name, one in RECIPES.items() if "moe" in one.model_type or one.model_type == "mixtral"]
DTYPES = ("float32", "bfloat16", "float16")
KERNELS = {
    "float32": ("plain", "packed", *WIDENING, "native-avx512vnni", "native-avx2"),
    "bfloat16": ("plain", "packed", *WIDENING, "native-amx", "native-avx512bf16", "native-avx2"),
    "float16": ("plain", "widened", "native-avx512vnni", "native-avx2"),
}
NUMBERS = tuple(f"{dtype}/{one}" for dtype, names in KERNELS.items() for one in names)
FREE_AXES = {  # "many" and "few": as many chunks as pay on a slow machine, and on a fast one
    "model": tuple(RECIPES),
    "chunks": ("1", "7", "128", "many", "few"),
    "prompts": ("1,37,71", "1,37", "71"),
    "numbers": NUMBERS,
    "kv_cache": ("auto", "int8"),
    "quantize": (NONE, *QUANTIZE),
}
PRECISION = ("numbers", "kv_cache", "quantize")

Assignment = dict[str, str]


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
        """The value of every axis, and what follows from them; of the mesh its shape."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "mesh"}
        values["shape"] = shape_of(parse_mesh(self.mesh))
        exact = self.numbers.startswith("float32") and self.kv_cache == "auto" and self.quantize == NONE
        values |= {"several": "yes"} if self.ranks != "1" else {}
        values |= {"dtype": self.numbers.split("/")[0], "experts": has_experts(self.model)}
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
        if axis in ("model", "experts"):
            return self.mesh.ep == 1 or value in ("yes", *WITH_EXPERTS)
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
    axes, of_mesh = case.axes, frames_by_mesh().get(case.mesh, [])
    return known and not clash(axes) and any(all(map(one.allows, axes, axes.values())) for one in of_mesh)


def clash(values: Assignment) -> bool:
    """Whether these values exclude one another, on whatever ranks."""
    numbers, quantize = values.get("numbers"), values.get("quantize")
    if numbers and quantize and not _computes(numbers, quantize != NONE):
        return True
    if "model" in values and values.get("experts", has_experts(values["model"])) != has_experts(values["model"]):
        return True
    return values.get("chunks") == "1" and "71" in values.get("prompts", "")  # would take the most time


def _computes(numbers: str, is_quantized: bool) -> bool:
    """Whether these kernels are for such weights."""
    dtype, kernels = numbers.split("/")
    return kernels not in ("plain", "packed") if is_quantized else (dtype != "float32" or kernels not in WIDENING)


def has_experts(model: str) -> str:
    return "yes" if model in WITH_EXPERTS else "no"


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
    meshes = [mesh for size in RANKS for mesh in meshes_of(int(size))]
    return [frame for mesh in meshes for frame in _frames_on(mesh)]


@cache
def frames_by_mesh() -> dict[str, list[Frame]]:
    """The same, by the text of the mesh."""
    found = defaultdict[str, list[Frame]](list)
    for frame in frames():
        found[str(frame.mesh)].append(frame)
    return found


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


def values_of(frame: Frame) -> Iterator[tuple[str, str]]:
    """Of all axes that a frame decides."""
    yield from (("ranks", str(frame.mesh.size)), ("shape", shape_of(frame.mesh)))
    yield from [("several", "yes")] if frame.mesh.size > 1 else []
    yield from [("experts", "yes"), *([("experts", "no")] if frame.mesh.ep == 1 else [])]
    yield from (("model", name) for name in RECIPES if frame.mesh.ep == 1 or name in WITH_EXPERTS)
    yield from (("prefill", frame.prefill), ("sync", frame.sync), ("decode", frame.decode))
    of_axes = (("granularity", frame.granularities), ("context_split", frame.context_splits), ("layers", frame.layers))
    yield from ((axis, value) for axis, values in of_axes for value in values)
