"""The main job on a real model, as on CPUs with fewer instructions than this one has."""

import json
import platform

import pytest
import smollm2
from mpirun import mpi_spp, mpirun, run

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86")
QUESTION = ("--prompt", "Name the capital of France.", "--max-new-tokens", "12", "--threads", "1", "--json", "-")


@pytest.mark.parametrize("level, newest", [("sse2", "sse4_2"), ("avx2", "avx2")])
def test_it_answers_and_says_by_what(level: str, newest: str) -> None:
    """Weights of 16 bits are computed with in float32, though this CPU may do better."""
    command = mpi_spp("generate", "--model", str(smollm2.directory()), *QUESTION)
    ended = run(mpirun(2, command), variables={"MPI_SPP_CPU": level})
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert "Paris" in told["text"]
    for rank in told["ranks"]:
        assert (rank["believed_cpu"], rank["compiler"]) == (level, None)
        assert rank["kernels"] in ("widened", "blockwise") and "measured as faster" in rank["kernels_reason"]
        assert rank["instruction_sets"][-1] == newest
    assert ended.stderr.count("mpi-spp: warning: weights of bfloat16 ") == 1
    assert f"taken for {level}" in " ".join(ended.stderr.split())


def test_kernels_that_it_lacks_are_refused_with_the_reason() -> None:
    command = mpi_spp("generate", "--model", str(smollm2.directory()), *QUESTION, "--kernels", "plain")
    ended = run(mpirun(2, command), variables={"MPI_SPP_CPU": "avx2"})
    assert (ended.status, ended.stdout) == (2, "")
    (line,) = ended.error_lines
    assert line.startswith("mpi-spp: error: --kernels: plain cannot run torch.bfloat16 on this CPU (")
    assert "no instructions for bfloat16" in line and line.endswith("choose one of auto, widened, blockwise")


def test_a_cpu_that_nobody_knows_is_one_line() -> None:
    ended = run(mpirun(2, mpi_spp("doctor")), variables={"MPI_SPP_CPU": "z80"})
    assert (ended.status, len(ended.error_lines)) == (2, 1), ended.stderr
    assert "MPI_SPP_CPU: 'z80' is unknown; choose one of sse2, avx2, avx512, avx512bf16" in ended.stderr
