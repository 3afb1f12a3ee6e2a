"""The runs of the rank tests cover what they claim, by whatever seed they are drawn."""

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace

import cases
import design
import pytest
from cases import NONE, Case
from design import Element

from mpi_spp.config import GRANULARITIES, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import CONTEXT_SPLITS
from mpi_spp.strategies.assignment import load_strategies

SEEDS = (0, 0xFFFFFFFF)
SAMPLES = 1200
OF_FRAME = {"granularity": GRANULARITIES, "context_split": CONTEXT_SPLITS, "layers": ("even", "first", "last", "auto")}
DERIVED = ("exact", "several", "dtype", "experts")


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request: pytest.FixtureRequest) -> list[Case]:
    return design.draw(request.param)


def triples_on(mesh: Mesh) -> list[dict[str, str]]:
    """Prefill, sync and decode as the program itself takes them."""
    found = []
    for prefill, sync, decode in itertools.product(*map(registry.choices, registry.VERBS)):
        with contextlib.suppress(UserError):
            load_strategies(RunConfig(model="any", prefill=prefill, sync_strategy=sync, decode=decode), mesh)
            found.append({"prefill": prefill, "sync": sync, "decode": decode})
    return found


def valid_at_random(drawing: random.Random, mesh: Mesh, triple: dict[str, str]) -> Iterator[Case]:
    """One run, put together without a thought but for its strategies, if it is valid."""
    free = {axis: drawing.choice(values) for axis, values in cases.FREE_AXES.items()}
    of_frame = {axis: drawing.choice((*values, *[NONE] * len(values))) for axis, values in OF_FRAME.items()}
    case = Case(str(mesh.size), str(mesh), **triple, **free, **of_frame)
    if cases.is_valid(case):
        yield case


def claimed(case: Case) -> set[Element]:
    """What of a valid run must be covered: pairs of values, of exact runs without the axes of precision also those."""
    axes = {axis: value for axis, value in case.axes.items() if value != NONE or axis == "quantize"}
    found = {pair for pair in pairs_of(axes) if not names(pair, "numbers") or not names(pair, *design.BY_DTYPE)}
    found |= of_numbers(axes)
    if axes["ranks"] == design.MANY_RANKS:
        found = {pair for pair in found if not names(pair, "ranks", "dtype", *cases.FREE_AXES)}
    if "exact" in axes:
        found |= {(*pair, ("exact", "yes")) for pair in found if not names(pair, "dtype", *cases.PRECISION)}
    return found


def pairs_of(axes: dict[str, str]) -> set[Element]:
    """All pairs of values, of axes in the order of their names."""
    return set(itertools.combinations(sorted(pair for pair in axes.items() if pair[0] not in DERIVED), 2))


def names(element: Element, *axes: str) -> bool:
    """Whether it has a value of one of these axes."""
    return any(axis in axes for axis, _ in element)


def of_numbers(axes: dict[str, str]) -> set[Element]:
    """Of what does not meet all kernels."""
    pairs = [("dtype", axis) for axis in design.BY_DTYPE if axis in axes] + [("experts", "numbers")]
    return {tuple((axis, axes[axis]) for axis in pair) for pair in pairs}


def missing(drawn: list[Case], ranks: int) -> list[Element]:
    """What random valid runs on so many ranks claim, and no run that was drawn covers."""
    drawing, covered = random.Random(ranks), covered_by(tuple(drawn))
    frames = [(mesh, triple) for mesh in cases.meshes_of(ranks) for triple in triples_on(mesh)]
    chosen = (drawing.choice(frames) for _ in range(SAMPLES))
    valid = [case for frame in chosen for case in valid_at_random(drawing, *frame)]
    assert len(valid) > 50
    return sorted(set().union(*map(claimed, valid)) - covered)


@cache
def covered_by(drawn: tuple[Case, ...]) -> set[Element]:
    """All that these runs cover."""
    return set().union(*map(claimed_by_all, drawn))


def claimed_by_all(case: Case) -> set[Element]:
    """As `claimed`, with all that a run covers besides."""
    found = pairs_of(case.axes) | of_numbers(case.axes)
    return found | ({(*pair, ("exact", "yes")) for pair in found} if "exact" in case.axes else set())


@pytest.mark.parametrize("ranks", [int(ranks) for ranks in cases.RANKS])
def test_all_valid_pairs_are_covered(drawn: list[Case], ranks: int) -> None:
    """Asked of runs that were put together at random, not of the lists by which the design was made."""
    assert missing(drawn, ranks) == []


def test_a_design_that_lost_runs_is_found_out(drawn: list[Case]) -> None:
    kept = [case for number, case in enumerate(drawn) if number % 10]
    assert missing(kept, 3)


def test_all_valid_triples_are_covered_exactly(drawn: list[Case]) -> None:
    """On several ranks, where something is split; and those of experts that are spread."""
    covered = {(one.prefill, one.sync, one.decode) for one in drawn if "exact" in one.axes and one.ranks != "1"}
    meshes = (Mesh(pp=3), Mesh(tp=3), Mesh(pp=2, tp=2), Mesh(ep=3), Mesh(ep=2, tp=2))
    valid = {tuple(triple.values()) for mesh in meshes for triple in triples_on(mesh)}
    assert valid <= covered
    spread = {(one.model, "ep" in one.mesh) for one in drawn}
    assert {(name, True) for name in cases.WITH_EXPERTS} <= spread


def test_there_are_not_too_many(drawn: list[Case]) -> None:
    """A small share on more ranks than heads, and none of it slow for nothing."""
    counts = Counter(case.ranks for case in drawn)
    assert set(counts) == set(cases.RANKS)
    assert 150 <= len(drawn) <= 290
    assert counts[design.MANY_RANKS] <= 25
    assert max(counts.values()) <= 100
    assert sum("exact" in case.axes for case in drawn) > len(drawn) / 2


def test_a_case_is_named_by_its_text(drawn: list[Case]) -> None:
    assert len(set(map(str, drawn))) == len(drawn)
    for case in drawn[::17]:
        assert cases.parse(str(case)) == case


def test_what_is_no_case_is_refused(drawn: list[Case]) -> None:
    for text in ("", "ranks=3", str(drawn[0]) + " more=1", str(drawn[0]).replace("sync=", "sync=un")):
        with pytest.raises(ValueError, match=r"is no case|cannot run"):
            cases.parse(text)


def test_a_seed_draws_the_same_runs_again() -> None:
    assert design.draw(5) == design.draw(5) != design.draw(6)


def test_numbers_that_are_not_here_are_left_out() -> None:
    numbers = ("float32/plain", "bfloat16/plain")
    assert {case.numbers for case in design.draw(1, numbers)} == set(numbers)


def test_a_small_session_has_numbers_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design, "numbers_here", lambda: cases.NUMBERS)
    monkeypatch.setenv("MPI_SPP_TEST_MOST", str(len(cases.NUMBERS)))
    found = design.of_session(3)
    assert len(found) == len(cases.NUMBERS) and all(case.ranks == "3" for case in found)
    assert {case.numbers for case in found} == set(cases.NUMBERS)


def test_one_case_alone(drawn: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI_SPP_TEST_CASE", str(drawn[3]))
    assert design.of_session(int(drawn[3].ranks)) == [drawn[3]]
    assert design.of_session(6) == []


def test_a_new_strategy_is_covered_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every prefill that it joins, on every count of ranks."""
    choices, load = registry.choices, registry.load
    star = SimpleNamespace(joins=load("sync", "ring").joins)
    monkeypatch.setattr(registry, "choices", lambda verb: [*choices(verb), *(["star"] if verb == "sync" else [])])
    monkeypatch.setattr(registry, "load", lambda verb, name: star if name == "star" else load(verb, name))
    cases.frames.cache_clear()
    try:
        drawn = [case for case in design.draw(0) if case.sync == "star"]
    finally:
        monkeypatch.undo()
        cases.frames.cache_clear()
    assert {case.ranks for case in drawn} == set(cases.RANKS)
    assert {case.prefill for case in drawn} == set(registry.choices("prefill"))
