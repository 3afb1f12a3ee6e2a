"""docs/adding_a_sync_strategy.md, followed to the letter: one new file in a copy of the package, and nothing else."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import reference_models
from mpirun import ROOT, Ended, mpi_spp, mpirun, run

RECIPE, PROMPT_LENGTH = "llama_tied", 37


def code_of_the_document() -> str:
    """Its first block of Python."""
    text = (ROOT / "docs" / "adding_a_sync_strategy.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The package and its tests with the new file."""
    for name in ("mpi_spp", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "mpi_spp" / "strategies" / "sync" / "star.py").write_text(code_of_the_document())
    return tmp_path


def conformance(tree: Path, *names: str) -> Ended:
    """The tests that every strategy must pass, or some of their files, on three ranks."""
    tests = [f"tests/ranks/test_{name}.py" for name in names or ("exchange", "generate", "cases")]
    options = ["-q", "-p", "no:cacheprovider", "--color=no", "-k", "star"]
    return run(mpirun(3, [sys.executable, "-m", "mpi4py", "-m", "pytest", *options, *tests]), tree=tree, timeout=120)


def test_help_lists_it(tree: Path) -> None:
    assert "[auto|none|pairwise|reshard|ring|shared|star]" in run(mpi_spp("generate", "--help"), tree=tree).stdout


def test_it_gives_the_tokens_of_transformers(tree: Path, tmp_path: Path) -> None:
    models = reference_models.build_reference_models()
    (tmp_path / "ids.json").write_text(json.dumps(reference_models.prompt_of(RECIPE, PROMPT_LENGTH)))
    arguments = ["--model", str(models / RECIPE), "--prompt-ids", str(tmp_path / "ids.json"), "--json", "-"]
    arguments += ["--max-new-tokens", str(reference_models.NEW_TOKENS), "--chunk-size", "7", "--sync-strategy", "star"]
    ended = run(mpirun(3, mpi_spp("generate", *arguments)), tree=tree)
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["configuration"]["sync_strategy"] == "star"
    assert told["token_ids"] == reference_models.reference_tokens(models, RECIPE, PROMPT_LENGTH)


def test_the_conformance_tests_cover_it(tree: Path) -> None:
    """Takes long: three ranks start, draw their cases and run all that have the new file."""
    ended = conformance(tree)
    assert ended.status == 0, ended.stdout + ended.stderr


def test_the_conformance_tests_find_a_mistake_in_it(tree: Path) -> None:
    """Two ranks' parts are taken for one another."""
    path = tree / "mpi_spp" / "strategies" / "sync" / "star.py"
    code = path.read_text()
    mistaken = code.replace("irecv(shared.part(rank)", "irecv(shared.part(comm.size - rank)")
    assert mistaken != code
    path.write_text(mistaken)
    assert conformance(tree, "exchange").status != 0
