"""A trace made by hand: its states, its critical path, its file and its picture are known."""

import io
import itertools
import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mpi_spp.errors import UserError
from mpi_spp.instruments.trace.critical_path import Segment, critical_path
from mpi_spp.instruments.trace.perfetto import placed, read_trace, write_trace
from mpi_spp.instruments.trace.plot import write_plot
from mpi_spp.instruments.trace.states import pieces_of
from mpi_spp.instruments.trace.summary import print_trace_summary, summarize_trace
from mpi_spp.instruments.trace.timeline import Event, Timeline

MS = 1_000_000
HIDDEN, SUM = "replica: 0 to 1, tag 0 #0", "replica: sum of 0,1 #0"


def event(category: str, name: str, start: int, end: int, message: str | None = None, **facts: Any) -> Event:
    """Times in ms."""
    return Event(category, name, start * MS, end * MS, facts | ({} if message is None else {"message": message}))


def message(kind: str, start: int, end: int, name: str, nbytes: int = 0) -> Event:
    return event("message", kind, start, end, name, kind=kind, bytes=nbytes)


def timelines() -> list[Timeline]:
    """Rank 0 computes from 10 ms on and sends at 40, which takes 5; rank 1 waits for it, and computes until 75.

    So it is late for a sum of both, for which rank 0 waits from 50 on. The sum ends at 80; then both compute.
    """
    first = [
        event("compute", "layer 9", 0, 2),  # a measurement before the run
        event("phase", "prefill", 10, 50),
        event("compute", "chunk 0", 10, 50),
        event("compute", "layer 0", 10, 30),
        event("compute", "layer 1", 31, 50),
        message("send", 40, 45, HIDDEN, 1000),
        message("sum", 50, 80, SUM),
        event("wait", "wait: sum", 50, 80, SUM),
        event("compute", "select", 80, 90),
    ]
    second = [
        event("phase", "prefill", 10, 75),
        message("receive", 10, 45, HIDDEN, 1000),
        event("wait", "wait: receive from 0", 10, 45, HIDDEN),
        event("compute", "unpack 0", 20, 24),
        event("compute", "chunk 0", 45, 75),
        message("sum", 75, 80, SUM),
        event("wait", "wait: sum", 75, 80, SUM),
        event("compute", "select", 80, 88),
    ]
    return [Timeline(0, "a", first, {"ahead_at_start_ns": 0}), Timeline(1, "b", second, {"ahead_at_start_ns": 5}, 3)]


def test_states_of_every_rank() -> None:
    ranks = summarize_trace(timelines())["ranks"]
    told = [[round(rank[name] * 1000) for name in ("busy_s", "bubble_s", "exposed_s", "other_s")] for rank in ranks]
    assert told == [[50, 25, 5, 0], [30 + 4 + 8, 26, 5 + 5, 2]]
    assert [round(rank["waiting_s"] * 1000) for rank in ranks] == [30, 36]
    assert ranks[0]["work_s"] == pytest.approx({"layer": 0.039, "select": 0.01, "chunk": 0.001})
    assert ranks[1]["work_s"] == pytest.approx({"chunk": 0.03, "select": 0.008, "unpack": 0.004})
    assert [(rank["messages"], rank["sends"], rank["bytes_in_sends"]) for rank in ranks] == [(2, 1, 1000), (2, 0, 0)]


def test_states_add_up_to_the_window() -> None:
    summary = summarize_trace(timelines())
    assert summary["window_s"] == pytest.approx(0.08)
    for rank in summary["ranks"]:
        states = (rank[name] for name in ("busy_s", "bubble_s", "exposed_s", "other_s"))
        assert sum(states) == pytest.approx(summary["window_s"])


def test_pieces_know_the_work_that_they_lie_in() -> None:
    chunk = [piece for piece in pieces_of(timelines())[0] if piece.outer is not None and piece.outer.name == "chunk 0"]
    assert [(piece.inner.name, piece.start // MS, piece.end // MS) for piece in chunk] == [
        ("layer 0", 10, 30),
        ("chunk 0", 30, 31),
        ("layer 1", 31, 50),
    ]


def test_the_critical_path_goes_through_the_late_ranks() -> None:
    path = [Segment(*one[:2], one.start // MS, one.end // MS) for one in critical_path(timelines())]
    assert path == [
        Segment(0, False, 10, 40),
        Segment(1, True, 40, 45),
        Segment(1, False, 45, 75),
        Segment(0, True, 75, 80),
        Segment(0, False, 80, 90),
    ]
    told = summarize_trace(timelines())["critical_path"]
    assert told["work_s"] == pytest.approx([0.04, 0.03])
    assert (told["messages"], told["messages_s"]) == (2, pytest.approx(0.01))


def test_waiting_for_a_message_that_is_late_itself_stays_on_the_rank() -> None:
    """All had begun: what the rank did before is on the path, not what the sender did after sending."""
    both = timelines()
    both[1].events[2] = event("wait", "wait: receive from 0", 42, 45, HIDDEN)
    path = [Segment(*one[:2], one.start // MS, one.end // MS) for one in critical_path(both)]
    assert path[:3] == [Segment(1, False, 10, 42), Segment(1, True, 42, 45), Segment(1, False, 45, 75)]


def test_a_wait_for_whoever_speaks_first_is_a_bubble() -> None:
    lone = Timeline(
        0, "a", [event("compute", "select", 0, 1), event("wait", "w", 1, 4), event("compute", "embed", 4, 5)]
    )
    summary = summarize_trace([lone])
    assert summary["ranks"][0]["bubble_s"] == pytest.approx(0.003)
    assert summary["critical_path"]["work_s"] == [pytest.approx(0.002)]


def test_a_trace_without_work() -> None:
    summary = summarize_trace([Timeline(0, "a", [])])
    assert summary["window_s"] == 0 and summary["critical_path"]["segments"] == []
    print_trace_summary(summary, Console(file=io.StringIO()))


def test_the_tables() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_trace_summary(summarize_trace(timelines()), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("2 ranks, 0.080 s", "62.5%", "0.026", "layer", "0.039", "not in this trace: 3 later events"):
        assert shown in text, shown
    path = "critical path: 0.080 s = work of rank 0 0.040 s, rank 1 0.030 s, and 0.010 s for 2 messages"
    assert path in " ".join(text.split()) and max(map(len, text.splitlines())) <= 80


# The file


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", timelines())
    again = read_trace(tmp_path / "trace.json")
    assert [sorted(one.events, key=repr) for one in again] == [sorted(one.events, key=repr) for one in timelines()]
    assert [(one.rank, one.host, one.clock, one.dropped) for one in again] == [
        (one.rank, one.host, one.clock, one.dropped) for one in timelines()
    ]


def entries(tmp_path: Path, phase: str, written: list[Timeline] | None = None) -> list[dict[str, Any]]:
    write_trace(tmp_path / "trace.json", timelines() if written is None else written)
    found = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    return [entry for entry in found if entry["ph"] == phase]


def test_arrows_go_from_the_sender_and_to_who_came_last(tmp_path: Path) -> None:
    starts, ends = entries(tmp_path, "s"), entries(tmp_path, "f")
    assert [(one["pid"], one["ts"]) for one in starts] == [(1000, 40_000.1), (1000, 50_000.1)]
    assert [(one["pid"], one["ts"]) for one in ends] == [(1001, 44_999.9), (1001, 79_999.9)]
    assert [one["id"] for one in starts] == [one["id"] for one in ends]
    assert all(one["bp"] == "e" for one in ends)


def test_an_arrow_begins_and_ends_in_a_slice_of_its_thread(tmp_path: Path) -> None:
    slices = entries(tmp_path, "X")
    for arrow in entries(tmp_path, "s") + entries(tmp_path, "f"):
        around = [one for one in slices if (one["pid"], one["tid"]) == (arrow["pid"], arrow["tid"])]
        assert sum(one["ts"] <= arrow["ts"] < one["ts"] + one["dur"] for one in around) == 1


def test_a_receive_is_drawn_from_its_sending_on(tmp_path: Path) -> None:
    (received,) = (one for one in entries(tmp_path, "X") if one["name"] == "receive")
    assert (received["ts"], received["dur"], received["args"]["posted_ns"]) == (40_000.001, 4_999.999, 10 * MS)


def test_ranks_are_processes_with_names(tmp_path: Path) -> None:
    names = {(one["name"], one["args"].get("name")) for one in entries(tmp_path, "M")}
    assert {("process_name", "rank 0 on a"), ("process_name", "rank 1 on b"), ("thread_name", "receives")} <= names
    threads = [one["tid"] for one in entries(tmp_path, "M") if one["name"] == "thread_name"]
    assert len(set(threads)) == len(threads)


def test_messages_that_overlap_have_threads_of_their_own() -> None:
    sends = [message("send", start, end, f"m{start}") for start, end in ((0, 5), (1, 3), (3, 6), (5, 6), (4, 4))]
    threads = placed(Timeline(0, "a", sends))
    for name, lane in threads:
        assert all(one.end <= other.start for one, other in itertools.pairwise(lane)), name
    assert sorted(event for _, lane in threads for event in lane) == sorted(sends)
    assert [name for name, lane in threads if lane] == ["sends"] * 3


def test_a_message_whose_other_end_is_missing_has_no_arrow(tmp_path: Path) -> None:
    assert entries(tmp_path, "s", timelines()[:1]) == []


OTHER_FILES = [
    *(b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 20_000, b'{"traceEvents": []}'),
    b'{"otherData": {"writer": "chrome"}}',
    b'{"otherData": {"writer": "mpi-spp"}}',
    b'{"otherData": {"writer": "mpi-spp", "ranks": [{}]}, "traceEvents": []}',
    b'{"otherData": {"writer": "mpi-spp", "ranks": []}, "traceEvents": [5]}',
]


@pytest.mark.parametrize("content", OTHER_FILES, ids=range(len(OTHER_FILES)))
def test_a_file_that_is_no_trace(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(UserError, match=r"other.json: is no trace of mpi-spp; give a file that") as caught:
        read_trace(tmp_path / "other.json")
    assert "\n" not in str(caught.value)


ODD = [None, True, "", "x", [], [0], {}, {"a": 1}, -1, 1.5, 10**400, float("nan"), float("inf"), 1e308]


def changed(content: Any, odd: Any) -> Iterator[Any]:
    """The content with one of its values, or a part of it, in the place of which stands an odd one."""
    yield odd
    if not isinstance(content, dict | list):
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        for other in changed(value, odd):
            copy = content.copy()
            copy[key] = other
            yield copy
        if isinstance(content, dict):
            yield {name: value for name, value in content.items() if name != key}


def test_a_trace_that_somebody_changed_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever one value of it is; nothing else is raised."""
    short = [replace(one, events=one.events[:1] + one.of("message")) for one in timelines()]
    write_trace(tmp_path / "trace.json", short)
    content, outcomes = json.loads((tmp_path / "trace.json").read_text()), set()
    content["traceEvents"] = [one for one in content["traceEvents"] if one["ph"] == "X"]
    others = list(itertools.chain.from_iterable(changed(content, odd) for odd in ODD))
    for other in random.Random(1).sample(others, 100):
        (tmp_path / "other.json").write_text(json.dumps(other))
        try:
            print_trace_summary(summarize_trace(read_trace(tmp_path / "other.json")), Console(file=io.StringIO()))
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_what_never_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nulls.json").touch()
    os.truncate(tmp_path / "nulls.json", 3 << 30)
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/full", tmp_path / "nulls.json", tmp_path / "pipe"):
        with pytest.raises(UserError):
            read_trace(Path(name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_trace(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"--trace: .* cannot be written"):
        write_trace(tmp_path / "none" / "trace.json", timelines())


# The picture


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "out.png", timelines(), "a trace")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    write_plot(tmp_path / "out.html", timelines(), "a <trace>")
    page = (tmp_path / "out.html").read_text()
    for shown in ("<title>a &lt;trace&gt;</title>", "<svg", "rank 1 on b", "waits for a late rank", "prefill and sync"):
        assert shown in page, shown
    for loaded in ("<script", "<link", "<img", 'href="http', "@import", "url(http"):
        assert loaded not in page, loaded


@pytest.mark.parametrize("name, says", [("none/out.png", "cannot be written")])
def test_pictures_that_cannot_be(tmp_path: Path, name: str, says: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match=says):
        write_plot(tmp_path / name, timelines(), "a trace")


def test_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="nothing to draw"):
        write_plot(tmp_path / "out.png", [Timeline(0, "a", [])], "a trace")
