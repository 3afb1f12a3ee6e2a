"""The examples run as their first lines say."""

import re
from pathlib import Path

import pytest
from mpirun import ROOT, mpi_spp, run

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"mpi-spp (launch -np \d -- run) examples/{path.stem}\.py", text)
    assert found is not None
    assert len(text.splitlines()) < 30 and "mpi_spp." not in text
    ended = run(mpi_spp(*found[1].split(), str(path)))
    assert ended.status == 0, ended.stderr
    assert "Paris" in ended.stdout


def test_a_script_that_asks_what_cannot_be(tmp_path: Path) -> None:
    """One line from one rank, though all of them raise it."""
    script = tmp_path / "script.py"
    script.write_text("import beside\nfrom mpi_spp import LLM\nLLM(beside.MODEL, decode='tensr')\n")
    (tmp_path / "beside.py").write_text("import sys\nMODEL = sys.argv[1]\n")
    ended = run(mpi_spp("launch", "-np", "2", "--", "run", str(script), "some-model"))
    assert (ended.status, ended.stdout) == (2, "")
    told = [line for line in ended.error_lines if "tensr" in line]
    assert len(told) == 1 and told[0].startswith("mpi-spp: error: decode: 'tensr'")
    assert "Traceback" not in ended.stderr
