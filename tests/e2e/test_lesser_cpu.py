"""The main job on a real model, as on CPUs with fewer instructions than this one has."""

import json
import platform
from typing import Any

import pytest
import smollm2
from mpirun import mpi_spp, mpirun, run

from mpi_spp.kernels.native import library

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86")
QUESTION = ("--prompt", "Name the capital of France.", "--max-new-tokens", "12", "--threads", "1", "--json", "-")


def answered_as_on(level: str) -> tuple[dict[str, Any], str]:
    """What two ranks report, and what they say on stderr."""
    command = mpi_spp("generate", "--model", str(smollm2.directory()), *QUESTION)
    ended = run(mpirun(2, command), variables={"MPI_SPP_CPU": level})
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert "Paris" in told["text"]
    assert f"taken for {level}" in " ".join(ended.stderr.split())
    return told, ended.stderr


def test_it_answers_without_kernels_of_its_own_and_says_by_what() -> None:
    """Weights of 16 bits are computed with in float32, though this CPU may do better.

    Takes long: nothing is remembered of such a CPU, so two back ends are tried and measured.
    """
    told, errors = answered_as_on("sse2")
    for rank in told["ranks"]:
        assert (rank["believed_cpu"], rank["compiler"]) == ("sse2", None)
        assert rank["kernels"] in ("widened", "blockwise") and "measured as faster" in rank["kernels_reason"]
        assert rank["instruction_sets"][-1] == "sse4_2"
    assert errors.count("mpi-spp: warning: weights of bfloat16 ") == 1


@pytest.mark.skipif("avx2" not in library.runnable(), reason="needs a CPU with AVX2")
def test_it_answers_by_kernels_for_avx2() -> None:
    told, errors = answered_as_on("avx2")
    for rank in told["ranks"]:
        assert (rank["believed_cpu"], rank["kernels"]) == ("avx2", "native-avx2")
        assert rank["instruction_sets"][-1] == "avx2" and rank["compiler"]
    assert "warning" not in errors


def test_kernels_that_it_lacks_are_refused_with_the_reason() -> None:
    command = mpi_spp("generate", "--model", str(smollm2.directory()), *QUESTION, "--kernels", "plain")
    ended = run(command, variables={"MPI_SPP_CPU": "sse2"})
    assert (ended.status, ended.stdout) == (2, "")
    (line,) = ended.error_lines
    assert line.startswith("mpi-spp: error: --kernels: plain cannot run torch.bfloat16 on this CPU (")
    assert "no instructions for bfloat16" in line and line.endswith("choose one of auto, widened, blockwise")


def test_a_cpu_that_nobody_knows_is_one_line() -> None:
    ended = run(mpi_spp("doctor"), variables={"MPI_SPP_CPU": "z80"})
    assert (ended.status, len(ended.error_lines)) == (2, 1), ended.stderr
    assert (
        "MPI_SPP_CPU: 'z80' is unknown; choose one of sse2, avx2, avxvnni, avx512, avx512vnni, avx512bf16"
        in ended.stderr
    )
