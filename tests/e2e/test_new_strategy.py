"""docs/adding_a_sync_strategy.md, followed to the letter in a copy of the package."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import reference_models
from mpirun import ROOT, mpi_spp, mpirun, run

RANKS = 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with one more file, and no other edit."""
    page = (ROOT / "docs" / "adding_a_sync_strategy.md").read_text(encoding="utf-8")
    block = re.search(r"mpi_spp/sync/star\.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    assert block, "the page has no code block for mpi_spp/sync/star.py"
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("mpi_spp", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "mpi_spp" / "sync" / "star.py").write_text(block[1], encoding="utf-8")
    return copy


def test_help_lists_it(tree: Path) -> None:
    ended = run(mpi_spp("generate", "--help"), tree=tree)
    assert "[pairwise|ring|star]" in re.sub(r"\s", "", ended.stdout)


def test_it_gives_the_tokens_of_transformers(tree: Path, tmp_path: Path) -> None:
    models, name, length = reference_models.build_reference_models(), "llama_tied", 37
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(reference_models.prompt_of(name, length)))
    options = ["--sync-strategy", "star", "--chunk-size", "7", "--dtype", "float32", "--json", "-", "--ignore-eos"]
    wanted = ["--max-new-tokens", str(reference_models.NEW_TOKENS)]
    command = mpi_spp("generate", "--model", str(models / name), "--prompt-ids", str(ids), *options, *wanted)
    ended = run(mpirun(RANKS, command), tree=tree)
    assert ended.status == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["token_ids"] == reference_models.reference_tokens(models, name, length)
    assert result["configuration"]["sync_strategy"] == "star"


def test_the_conformance_test_covers_it_unasked(tree: Path) -> None:
    tests = ["-m", "mpi4py", "-m", "pytest", "-v", "--color=no", "-k", "same_cache and star", "tests/ranks/test_generate.py"]
    ended = run(mpirun(RANKS, [sys.executable, *tests]), tree=tree, timeout=120)
    assert ended.status == 0, ended.stdout + ended.stderr
    for granularity in ("layer", "chunk", "prefill"):
        assert re.search(rf"same_cache_on_all_ranks\[star-{granularity}-7\] PASSED", ended.stdout)
