"""Imports run one way, and what is long or tangled is seen: see the rooms in docs/structure.md."""

import ast
import graphlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpi_spp
from mpi_spp.parallel.registry import VERBS

PACKAGE = Path(mpi_spp.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}

# A room imports rooms of lower levels alone.
LEVELS = [
    {"errors"},
    {"system"},
    {"__init__", "parallel", "kernels", "request"},
    {"config", "comm", "launch"},
    {"kv"},
    {"model"},
    {"strategies"},
    {"engine"},
    {"forecast"},
    {"instruments"},
    {"batch"},
    {"entrypoints"},
    {"cli"},
    {"__main__"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MOST_FOLDERS, MOST_FILES = 14, 3  # at the top, besides the package's own two
MOST_LINES_OF_FILE, MOST_LINES_OF_FUNCTION = 300, 50


def imports_of(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports anywhere, in functions and for type checkers too."""
    return _imported(ast.parse(path.read_text(encoding="utf-8")))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_loaded_with(path: Path) -> set[str]:
    """The modules of this package that a file imports when it is loaded itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    names = [name.removeprefix("mpi_spp.") for node in at_once for name in _imported(node) if "mpi_spp." in name]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def rooms_imported(path: Path) -> set[str]:
    """The rooms of this package that a file imports; `from mpi_spp import __version__` is the room `__init__`."""
    names = [name.split(".")[1] for name in imports_of(path) if name.startswith("mpi_spp.")]
    return {name if name in LEVEL_OF or (PACKAGE / name).is_dir() else "__init__" for name in names}


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_is_below_it(module: str) -> None:
    assert room_of(module) in LEVEL_OF, "a new room: give it a level here and in docs/structure.md"
    named_by_the_package = {"entrypoints"} if module == "__init__" else set()
    for imported in rooms_imported(MODULES[module]) - {room_of(module)} - named_by_the_package:
        assert LEVEL_OF[imported] < LEVEL_OF[room_of(module)], f"{module} imports {imported}"


def test_modules_do_not_load_one_another_in_a_circle() -> None:
    tuple(
        graphlib.TopologicalSorter({name: modules_loaded_with(path) for name, path in MODULES.items()}).static_order()
    )


@pytest.mark.parametrize("room", ["model", "kernels"])
def test_the_decoder_knows_no_ranks(room: str) -> None:
    for module in (module for module in MODULES if room_of(module) == room):
        assert "comm" not in rooms_imported(MODULES[module]), module


def test_strategies_do_not_know_one_another() -> None:
    for module in (module for module in MODULES if module.split(".")[1:2] and module.split(".")[1] in VERBS):
        for name in imports_of(MODULES[module]):
            parts = name.removeprefix("mpi_spp.").split(".")
            if parts[0] == "strategies" and parts[1] in VERBS:
                assert parts[1] == module.split(".")[1] and parts[2].startswith("_"), f"{module} imports {name}"


def test_only_comm_speaks_mpi() -> None:
    speakers = {
        room_of(module) for module, path in MODULES.items() if any("mpi4py" in name for name in imports_of(path))
    }
    assert speakers == {"comm"}


def test_the_decoder_loads_no_mpi_library_and_help_no_torch() -> None:
    """Also through what they import in turn; and who computes what is known without either."""
    decoder = "import sys, mpi_spp.model.loading.weights, mpi_spp.model.text.prompt; assert 'mpi4py' not in sys.modules"
    pure = [module for module in MODULES if module.startswith(("parallel.", "cli.generate", "config"))]
    imports = ", ".join(f"mpi_spp.{module.removesuffix('.__init__')}" for module in pure)
    without_torch = f"import sys, {imports}; assert not {{'mpi4py', 'torch'}} & set(sys.modules)"
    for program in (decoder, without_torch):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_newcomer_meets_few_rooms() -> None:
    top = [path for path in PACKAGE.iterdir() if not path.name.startswith("_")]
    assert len([path for path in top if list(path.glob("*.py"))]) <= MOST_FOLDERS
    assert len([path for path in top if path.suffix == ".py"]) <= MOST_FILES


def test_files_and_functions_are_short() -> None:
    long_files = [str(path) for path in MODULES.values() if len(path.read_text().splitlines()) > MOST_LINES_OF_FILE]
    nodes = itertools.chain(*(ast.walk(ast.parse(path.read_text())) for path in MODULES.values()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not long_files and not {name for name, lines in lengths.items() if lines > MOST_LINES_OF_FUNCTION}
