"""The study of slow networks: what it makes of results, and the least time that a link allows."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.network_study import Row, draw, rows_of, table

MB = 10**6 * 1448 / 1514  # bytes of messages that take a million on the wire


def row(mbit: float | None, granularity: str, prefill_s: float, exposed_s: float, strategy: str = "ring") -> Row:
    """20 MB of KV and 5 MB of hidden states."""
    return Row(2, mbit, strategy, granularity, prefill_s, exposed_s, round(20 * MB), round(25 * MB))


@pytest.mark.parametrize(
    ("mbit", "granularity", "expected"),
    [
        (None, "chunk", 1.1),
        (100, "chunk", 2.0),  # 25 MB at 12.5 MB/s
        (1000, "chunk", 1.1),  # computing takes longer than the link
        (100, "prefill", 1.0 + 1.6),  # 20 MB when all is computed
        (20, "prefill", 2.0 + 8.0),  # the hidden states alone take longer than computing
    ],
)
def test_no_run_is_faster_than_computing_and_the_link(mbit: float | None, granularity: str, expected: float) -> None:
    free = row(None, granularity, 1.0, 0.1)
    assert row(mbit, granularity, 9.0, 9.0).least_s(free) == pytest.approx(expected, rel=1e-3)


def test_a_row_is_of_medians_and_of_the_busiest_host() -> None:
    timings = [[{"prefill_s": second, "sync_exposed_s": second / 10}] for second in (3.0, 1.0, 2.0)]
    sent: dict[str, Any] = {"bytes_sent": [7, 9], "kv_bytes_sent": [6, 5]}
    name = "pipeline ring chunk replicated chunk=128 layers=even"
    results = [{"cases": [{"name": name, "timings": of_round, **sent}]} for of_round in timings]
    assert list(rows_of(2, 1000, results)) == [Row(2, 1000, "ring", "chunk", 2.0, 0.2, 5, 9)]


def test_the_table_marks_the_fastest_of_a_link_and_tells_how_near_it_came() -> None:
    rows = [row(None, "chunk", 1.0, 0.1), row(100, "chunk", 2.0, 0.5), row(100, "chunk", 1.5, 1.5, "pairwise")]
    rows.append(row(None, "chunk", 1.0, 0.2, "pairwise"))
    lines = table(rows).splitlines()
    assert lines[2] == "| no limit | ring | chunk | 1.000 | 0.100 | 10.0% | **1.100** | 19.13 | 1.100 | 100% |"
    assert lines[3] == "| 100 Mbit/s | ring | chunk | 2.000 | 0.500 | 25.0% | **2.500** | 19.13 | 2.000 | 80% |"
    assert "| 3.000 |" in lines[4] and all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([row(None, "chunk", 1.0, 0.1), row(100, "chunk", 2.0, 0.5)], str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 1000
