"""`mpi-spp bench comm` as a user starts it."""

import json
from pathlib import Path

from console import Ranks
from mpirun import mpi_spp, run

SMALL = ("--sizes", "1KiB,64KiB", "--seconds", "0.01", "--rounds", "2")


def test_json_is_all_of_standard_output() -> None:
    operation = ("--operations", "allgather", "--modes", "blocking,nonblocking")
    ended = run(mpi_spp("launch", "-np", "2", "--", "bench", "comm", *operation, *SMALL, "--json", "-"))
    assert ended.status == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["benchmark"], told["num_ranks"], len(told["machine"]["ranks"])) == ("comm", 2, 2)
    blocking = [case["name"] for case in told["cases"] if case["mode"] == "blocking"]
    assert blocking == [
        f"allgather blocking {transport} {size}"
        for size in ("1 KiB", "64 KiB")
        for transport in ("wrapper", "raw", "pickled", "gloo")
    ]
    assert all(set(row["speed"]) >= {"raw", "gloo"} for row in told["comparisons"] if row["mode"] == "blocking")
    assert {row["operation"] for row in told["fits"]} == {"allgather"}
    assert any(one["transport"] == "nccl" and "needs a GPU" in one["reason"] for one in told["left_out"])


def test_tables_on_standard_output_and_a_result_that_can_be_compared(
    tmp_path: Path, console: Ranks, alone: Ranks
) -> None:
    path = str(tmp_path / "comm.json")
    few = ("--operations", "ring", "--transports", "wrapper,raw", "--modes", "blocking", "--json", path)
    ended = console.run("bench", "comm", *few, *SMALL)
    assert ended.status == 0, ended.stderr
    assert "ring, blocking, 3 ranks" in ended.stdout and "alpha us" in ended.stdout
    ended = alone.run("bench", "compare", path, path)
    assert ended.status == 0 and ended.stdout.count("same") == 4


def test_one_rank_has_nothing_to_measure(alone: Ranks) -> None:
    ended = alone.run("bench", "comm")
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1), ended.stderr
    assert "bench comm: one rank has nobody to exchange messages with; start two or more" in ended.stderr


def test_no_memory_for_any_message(console: Ranks) -> None:
    ended = console.run("bench", "comm", "--sizes", "1MiB", "--max-memory", "1MiB")
    assert (ended.status, ended.stdout, len(ended.error_lines)) == (2, "", 1), ended.stderr
    assert "bench comm: nothing is left to measure" in ended.stderr and "--max-memory" in ended.stderr
