"""Imports run one way: see the rooms in docs/structure.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpi_spp
from mpi_spp.parallel.registry import VERBS

PACKAGE = Path(mpi_spp.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}

# A room imports rooms of a lower level, and of its own level unless a test below forbids it.
LEVELS = [
    {"__init__", "errors", "cpu", "lesser_cpu", "limits", "files", "outputs", "start", "units"},
    {"report"},
    {"registry", "request"},
    {"mesh"},
    {"kernels", "partition", "shares", "schedule", "config", "teams"},
    {"model", "kv", "comm", "phase"},
    {"prefill", "sync", "decode", "sampling", "costs", "strategies"},
    {"plan"},
    {"loading", "connections", "tracing"},
    {"caches", "measuring", "diagnosis"},
    {"facts"},
    {"engine", "launch"},
    {"benchmark", "batch", "doctor", "fan_out", "guidance", "opening"},
    {"llm"},
    {"cli"},
    {"__main__"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports_of(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports anywhere, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """The rooms of this package that a file imports; `from mpi_spp import __version__` is the room `__init__`."""
    names = [name.split(".")[1] for name in imports_of(path) if name.startswith("mpi_spp.")]
    return {name if name in LEVEL_OF or (PACKAGE / name).is_dir() else "__init__" for name in names}


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_is_below_it(module: str) -> None:
    assert room_of(module) in LEVEL_OF, "a new room: give it a level here and in docs/structure.md"
    named_by_the_package = {"llm"} if module == "__init__" else set()  # and loaded when asked for
    for imported in rooms_imported(MODULES[module]) - {room_of(module)} - named_by_the_package:
        assert LEVEL_OF[imported] <= LEVEL_OF[room_of(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("room", ["model", "kernels"])
def test_the_decoder_knows_no_ranks(room: str) -> None:
    for module in (module for module in MODULES if room_of(module) == room):
        assert "comm" not in rooms_imported(MODULES[module]), module


def test_strategies_do_not_know_one_another() -> None:
    for module in (module for module in MODULES if room_of(module) in VERBS):
        for name in imports_of(MODULES[module]):
            parts = name.split(".")
            if parts[0] == "mpi_spp" and parts[1] in VERBS:
                assert parts[1] == room_of(module) and parts[2].startswith("_"), f"{module} imports {name}"


def test_only_comm_speaks_mpi() -> None:
    speakers = {
        room_of(module) for module, path in MODULES.items() if any("mpi4py" in name for name in imports_of(path))
    }
    assert speakers == {"comm"}


@pytest.mark.parametrize("room", ["report", "comm", "kernels"])
def test_rooms_that_are_called_and_call_nobody(room: str) -> None:
    for module in (module for module in MODULES if room_of(module) == room):
        assert rooms_imported(MODULES[module]) <= {*LEVELS[0], room}, module


def test_the_decoder_loads_no_mpi_library_and_help_no_torch() -> None:
    """Also through what they import in turn."""
    decoder = "import sys, mpi_spp.model.loading.weights, mpi_spp.model.text.prompt; assert 'mpi4py' not in sys.modules"
    help_text = "import sys, mpi_spp.cli.generate, mpi_spp.config; assert not {'mpi4py', 'torch'} & set(sys.modules)"
    for program in (decoder, help_text):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
