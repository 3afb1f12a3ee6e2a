"""`bench comm` without ranks: its options, the data that it moves, and what its report makes of the times."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from mpi_spp.cli import commands
from mpi_spp.cli._bench_comm import parse_sizes
from mpi_spp.comm.bench import OPERATIONS
from mpi_spp.comm.bench.exchange import Exchange, data_of, memory_bytes, moved_bytes
from mpi_spp.errors import UserError
from mpi_spp.instruments.report.comm import case_of, comparisons, fits, gaps, print_comm
from mpi_spp.instruments.report.comm_plot import plot_comm
from mpi_spp.instruments.report.samples import compare

KIB, MIB = 1 << 10, 1 << 20


# Options


@pytest.mark.parametrize(
    "text, sizes",
    [
        ("1KiB", (KIB,)),
        ("1KiB..64MiB", tuple(KIB * 4**step for step in range(9))),
        ("1KiB..10KiB", (KIB, 4 * KIB)),
        ("1MiB, 1000 ,4KiB..16KiB,4KiB", (1000, 4 * KIB, 16 * KIB, MIB)),
    ],
)
def test_sizes(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--sizes", "1KiB.."], "--sizes: '' is no amount of memory"),
        (["--sizes", "many"], "--sizes: 'many' is no amount of memory"),
        (["--sizes", "1MiB..1KiB"], "--sizes: 1MiB..1KiB ends before it begins"),
        (["--sizes", "2GiB"], "--sizes: 2GiB is too large; give 1 GiB or less"),
        (["--sizes", "1001"], "--sizes: 1001 bytes are no whole number of float32"),
        (["--sizes", "12", "--dtype", "float64"], "--sizes: 12 bytes are no whole number of float64"),
        (["--operations", "ring,gossip"], "--operations: 'gossip' is unknown; choose some of allgather,ring"),
        (["--modes", ""], "--modes: '' is unknown"),
        (["--transports", "smoke"], "--transports: 'smoke' is unknown"),
        (["--max-memory", "lots"], "--max-memory: 'lots' is no amount of memory"),
        (["--json", "/nowhere/x.json"], "--json: /nowhere/x.json cannot be written"),
        (["--plot", "x.jpg"], "--plot: x.jpg has to end in .png or .svg"),
    ],
)
def test_bad_input(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(commands, ["bench", "comm", *arguments])
    assert isinstance(ended.exception, UserError) and str(ended.exception).startswith(says), ended.output


def test_a_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = CliRunner().invoke(commands, ["bench", "comm", "--plot", "x.svg"])
    assert str(ended.exception) == "--plot: matplotlib is not installed; pip install 'mpi-spp[plots]'"


# What is moved


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_is_expected_is_what_was_given(size: int) -> None:
    """By the definition of each operation."""
    data = {operation: [data_of(operation, rank, size) for rank in range(size)] for operation in OPERATIONS}
    for rank in range(size):
        expected = {operation: data[operation][rank].expected for operation in OPERATIONS}
        assert same(expected["allgather"], [of.outgoing[0] for of in data["allgather"]])
        assert torch.equal(data["allgather"][rank].own[rank], expected["allgather"][rank])
        assert same(expected["ring"], data["ring"][rank - 1].outgoing)
        assert same(expected["allreduce"], [sum(of.own[0] for of in data["allreduce"])])
        assert same(expected["alltoall"], [of.outgoing[rank] for of in data["alltoall"]])
        assert same(expected["broadcast"], [data["broadcast"][0].own[0]])
    first, *middle, last = data["ping-pong"]
    assert same(first.expected, last.outgoing) and same(last.expected, first.outgoing)
    assert not any(of.expected or of.outgoing for of in middle)
    assert all(not of.own for of in (*data["broadcast"][1:], *data["ring"], *data["alltoall"]))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("nbytes", [8, 1000, 4096])
def test_nothing_wrong_passes_for_right(operation: str, nbytes: int, size: int) -> None:
    """Neither what was there before, nor a message at another place, nor one wrong element."""
    exchange = Exchange(operation, nbytes, size - 1, size, torch.float32, torch.device("cpu"))
    assert exchange.outgoing.nbytes + exchange.incoming.nbytes <= memory_bytes(operation, nbytes, size)
    exchange.fill()
    assert not exchange.is_right()
    right = [pattern.repeat(nbytes) for pattern in data_of(operation, size - 1, size).expected]
    elements = exchange.incoming.shape[1]
    exchange.take([message[:elements].numpy() for message in right])
    assert exchange.is_right()
    for place in (0, elements - 1):
        kept = exchange.incoming[-1, place].clone()
        exchange.incoming[-1, place] += 1
        assert not exchange.is_right()
        exchange.incoming[-1, place] = kept
    exchange.incoming.copy_(exchange.incoming.roll(1, dims=-1))
    assert not exchange.is_right()


def test_bytes_that_a_rank_receives() -> None:
    moved = {operation: moved_bytes(operation, 300, 3) for operation in OPERATIONS}
    expected = {"allgather": 600, "ring": 300, "allreduce": 400, "alltoall": 600, "broadcast": 300, "ping-pong": 300}
    assert moved == expected


# The report


def point(transport: str, nbytes: int, seconds: list[float], mode: str = "blocking", **more: Any) -> dict[str, Any]:
    overlap = 0.75 if mode == "nonblocking" else None
    samples = [{"mean_s": one, "min_s": one / 2, "max_s": one * 2, "overlap": overlap} for one in seconds]
    of = {"operation": "allgather", "mode": mode, "transport": transport, "message_bytes": nbytes}
    return of | {"moved_bytes": 2 * nbytes, "iterations": 10, "samples": samples} | more


def result() -> dict[str, Any]:
    points = [
        point(transport, nbytes, [cost * (1e-6 + nbytes / 1e9) * drift for drift in (1, 3, 2)], mode)
        for mode in ("blocking", "nonblocking")
        for nbytes in (KIB, MIB)
        for transport, cost in (("wrapper", 1.25), ("raw", 1.0), ("gloo", 10.0))
    ]
    cases = [case_of(one) for one in points]
    missing = {"transport": "pickled", "mode": "nonblocking", "message_bytes": None, "reason": "is slow"}
    return {
        "num_ranks": 3,
        "cases": cases,
        "comparisons": comparisons(cases),
        "fits": fits(cases),
        "left_out": [missing | {"operation": operation} for operation in ("allgather", "ring")],
        "machine": {"mpi": "an MPI", "cpu": "a CPU"},
    }


def test_a_case_is_one_of_any_benchmark() -> None:
    case = case_of(point("raw", 4 * KIB, [1e-6, 4e-6, 2e-6]))
    assert case["name"] == "allgather blocking raw 4 KiB"
    assert case["samples"] == pytest.approx([8.192e9, 2.048e9, 4.096e9])
    assert (case["median"], case["seconds"]) == (pytest.approx(4.096e9), 2e-6)
    assert (case["fastest_rank_s"], case["slowest_rank_s"], case["overlap"]) == (1e-6, 4e-6, None)
    (row,) = compare({"cases": [case]}, {"cases": [case]}, tolerance=0.02)
    assert row["ratio"] == 1


def test_ratios_are_of_neighbours_in_a_round() -> None:
    """The machine became three times slower in the second round: nobody's ratio shows it."""
    rows = result()["comparisons"]
    assert [(row["mode"], row["message_bytes"]) for row in rows] == [
        (mode, size) for mode in ("blocking", "nonblocking") for size in (KIB, MIB)
    ]
    for row in rows:
        assert row["speed"] == {"raw": pytest.approx(0.8), "gloo": pytest.approx(8.0)}
    assert rows[0]["overhead_s"] == pytest.approx(0.25 * 2 * (1e-6 + KIB / 1e9))


def test_without_our_wrapper_there_is_nothing_to_compare() -> None:
    cases = [case_of(point(name, KIB, [1e-6])) for name in ("raw", "gloo")]
    assert comparisons(cases) == []
    (alone,) = comparisons([case_of(point("wrapper", KIB, [1e-6]))])
    assert (alone["speed"], alone["overhead_s"]) == ({}, None)


def test_lines_of_every_series() -> None:
    found = {(row["mode"], row["transport"]): row for row in result()["fits"]}
    assert len(found) == 6
    assert found["blocking", "raw"]["alpha_s"] == pytest.approx(2e-6)
    assert found["blocking", "gloo"]["bytes_per_s"] == pytest.approx(1e8)


def test_what_was_left_out_is_told_once_for_each_reason() -> None:
    everything = {"transport": "nccl", "mode": None, "operation": None, "message_bytes": None, "reason": "no GPU"}
    large = {"transport": "raw", "mode": "blocking", "operation": "ring", "message_bytes": MIB, "reason": "too large"}
    assert gaps([*result()["left_out"], everything, large]) == [
        "left out: pickled nonblocking allgather, ring: is slow",
        "left out: nccl: no GPU",
        "left out: raw blocking ring 1 MiB: too large",
    ]


def test_tables() -> None:
    console = Console(file=io.StringIO(), width=80)
    told = result()
    json.dumps(told)
    print_comm(told, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "allgather, blocking, 3 ranks" in text and "allgather, nonblocking, 3 ranks" in text
    (row, *_) = [line for line in text.splitlines() if "1 KiB" in line]
    assert row.replace("│", " ").split() == ["1", "KiB", "5.1", "4.0", "40.5", "+1.0", "0.80", "8.00", "0.405"]
    assert "75%" in text and "left out: pickled nonblocking allgather, ring: is slow" in text


def test_a_series_with_a_gap() -> None:
    """The largest message did not fit one transport's memory."""
    told = result()
    told["cases"] = [case for case in told["cases"] if case["name"] != "allgather blocking gloo 1 MiB"]
    told["comparisons"] = comparisons(told["cases"])
    console = Console(file=io.StringIO(), width=80)
    print_comm(told, console)
    row = next(line for line in console.file.getvalue().splitlines() if "1 MiB" in line)  # type: ignore[attr-defined]
    assert row.count(" - ") == 2


@pytest.mark.parametrize("suffix, begins", [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_picture(tmp_path: Path, suffix: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"comm{suffix}"
    plot_comm(result(), str(path))
    assert path.read_bytes().startswith(begins)
