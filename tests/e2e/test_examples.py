"""The examples run as their first lines say."""

import re
import sys
from pathlib import Path

import pytest
from mpirun import ROOT, mpirun, run

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {"answer": "Paris", "chat": "Louvre"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.search(r"mpirun -np (\d) python -m mpi4py examples/(\w+)\.py", text)
    assert found is not None and found[2] == path.stem
    assert len(text.splitlines()) < 30 and "mpi_spp." not in text
    ended = run(mpirun(int(found[1]), [sys.executable, "-m", "mpi4py", str(path)]))
    assert ended.status == 0, ended.stderr
    assert SAYS[path.stem] in ended.stdout
