"""A picture of a trace: a row for each rank, coloured by what it did; the last prefill alone, and the whole run."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mpi_spp.errors import UserError
from mpi_spp.instruments.report.plots import save
from mpi_spp.instruments.trace.states import BUSY, Piece, pieces_of
from mpi_spp.instruments.trace.summary import kind_of
from mpi_spp.instruments.trace.timeline import Timeline, window_of
from mpi_spp.system.outputs import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By kind of work, or state of a rank that waits: its colour and what it is. A chunk's colour tells its number.
_LOOKS = {
    "bubble": ("#e6e6e6", "waits for a late rank"),
    "exposed": ("#d62728", "waits for a message"),
    "step": ("#4c78a8", "decode step"),
    "select": ("#f58518", "token selection"),
    "pack": ("#54301a", "sync: packing"),
    "unpack": ("#a9714b", "sync: unpacking"),
    "other": ("#9d9da1", "other work"),
}
_CHUNKS = "viridis"
_PIXELS = 2400  # across a picture: what is thinner than half of one is not drawn
_LABEL_SHARE = 0.012  # of a picture's width: a chunk that is narrower bears no number
_MOST_ARROWS = 400
SUFFIXES = (".png", ".svg", ".html")


class _View(NamedTuple):
    """A part of the time that is drawn by itself, in ns."""

    name: str
    start: int
    end: int

    def seconds(self, ns: int) -> float:
        """Since its start."""
        return (ns - self.start) / 1e9


class _Box(NamedTuple):
    """What looks alike: work of one kind and number, or one way to wait."""

    start: int
    end: int
    kind: str
    name: str


def write_plot(path: Path, timelines: list[Timeline], title: str) -> None:
    """Draw into a .png, .svg or .html file; the last is a page that needs no other file. Raises UserError."""
    figure = _draw(timelines, title)
    if path.suffix == ".html":
        write_text("PICTURE", path, _page(figure, title))
    else:
        save(figure, "PICTURE", path, dpi=160)


def _draw(timelines: list[Timeline], title: str) -> Figure:
    from matplotlib.figure import Figure

    views, pieces = list(_views(timelines)), pieces_of(timelines)
    if not views:
        raise UserError("the trace holds no work of any rank, so there is nothing to draw; trace a run that computes")
    figure = Figure(figsize=(15, 1 + len(views) * (0.9 + 0.55 * len(timelines))), layout="constrained")
    figure.suptitle(title)
    for axes, view in zip(figure.subplots(len(views), squeeze=False)[:, 0], views, strict=True):
        for row, timeline in enumerate(timelines):
            _draw_row(axes, row, list(_boxes(pieces[timeline.rank], view)), view)
        _draw_messages(axes, timelines, view)
        axes.set_title(view.name, loc="left", fontsize=10)
        axes.set_xlim(0, view.seconds(view.end))
        axes.set_ylim(len(timelines) - 0.5, -0.5)
        axes.set_yticks(range(len(timelines)), [f"rank {one.rank} on {one.host}" for one in timelines])
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    _explain(figure)
    return figure


def _views(timelines: list[Timeline]) -> Iterator[_View]:
    """The last prefill with its sync, since the first ones warm a program up; then all."""
    phases = [[event for event in one.of("phase") if event.name in ("prefill", "sync")] for one in timelines]
    starts = [event.start for of_rank in phases for event in of_rank[-2:] if event.name == "prefill"]
    if starts:
        yield _View("prefill and sync", min(starts), max(of_rank[-1].end for of_rank in phases if of_rank))
    first, last = window_of(timelines)
    if last > first:
        yield _View("whole run", first, last)


def _boxes(pieces: Iterable[Piece], view: _View) -> Iterator[_Box]:
    """Neighbours that look alike are one box, and what is too thin to be seen is none."""
    pixel = (view.end - view.start) / _PIXELS
    last: _Box | None = None
    for piece in pieces:
        if piece.end <= view.start or piece.start >= view.end:
            continue
        box = _box(piece)
        if last is not None and last[2:] == box[2:] and box.start - last.end < pixel:
            last = last._replace(end=box.end)
        elif box.end - box.start >= pixel / 2:
            if last is not None:
                yield last
            last = box
    if last is not None:
        yield last


def _box(piece: Piece) -> _Box:
    if piece.state != BUSY or piece.outer is None:
        return _Box(piece.start, piece.end, piece.state, "")
    inner, outer = kind_of(piece.inner.name), kind_of(piece.outer.name)
    if inner in _LOOKS:
        return _Box(piece.start, piece.end, inner, "")
    if outer == "chunk" and piece.outer.name.removeprefix("chunk ").isdecimal():
        return _Box(piece.start, piece.end, outer, piece.outer.name.removeprefix("chunk "))
    return _Box(piece.start, piece.end, outer if outer in _LOOKS else "other", "")


def _draw_row(axes: Axes, row: int, boxes: list[_Box], view: _View) -> None:
    from matplotlib import colormaps

    highest = max((int(box.name) for box in boxes if box.kind == "chunk"), default=0)
    shades = colormaps[_CHUNKS].resampled(highest + 1)
    colors = [shades(int(box.name)) if box.kind == "chunk" else _LOOKS[box.kind][0] for box in boxes]
    spans = [(view.seconds(box.start), (box.end - box.start) / 1e9) for box in boxes]
    axes.broken_barh(spans, (row - 0.38, 0.76), facecolors=colors, linewidth=0)
    widest = {box.name: box for box in sorted(boxes, key=lambda box: box.end - box.start) if box.name}
    for box in widest.values():
        if box.end - box.start > _LABEL_SHARE * (view.end - view.start):
            dark = int(box.name) < 0.7 * highest
            place = view.seconds((box.start + box.end) // 2), row
            axes.text(*place, box.name, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _draw_messages(axes: Axes, timelines: list[Timeline], view: _View) -> None:
    """A line for each message between two ranks, from its sending to its arrival, unless they are too many."""
    rows = {timeline.rank: row for row, timeline in enumerate(timelines)}
    ends: dict[str, dict[str, tuple[int, int]]] = {}
    for timeline in timelines:
        for event in timeline.of("message"):
            moment = event.start if event.facts["kind"] == "send" else event.end
            ends.setdefault(event.facts["message"], {})[event.facts["kind"]] = moment, rows[timeline.rank]
    whole = [(pair["send"], pair["receive"]) for pair in ends.values() if {"send", "receive"} <= pair.keys()]
    seen = [(sent, got) for sent, got in whole if sent[0] >= view.start and got[0] <= view.end]
    if len(seen) <= _MOST_ARROWS:
        for sent, got in seen:
            down = 0.38 if got[1] > sent[1] else -0.38
            times = view.seconds(sent[0]), view.seconds(got[0])
            axes.plot(times, (sent[1] + down, got[1] - down), color="black", linewidth=0.6)


def _explain(figure: Figure) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    shades = colormaps[_CHUNKS]
    chunks = [Patch(color=shades(0.0), label="first chunk"), Patch(color=shades(1.0), label="last chunk")]
    others = [Patch(color=color, label=meaning) for color, meaning in _LOOKS.values()]
    figure.legend(handles=chunks + others, loc="outside lower center", ncols=len(_LOOKS) + 2, frameon=False, fontsize=8)


def _page(figure: Figure, title: str) -> str:
    import matplotlib

    drawing = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text, that can be searched and copied
        figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    style = "body { margin: 1em; font-family: sans-serif } svg { width: 100%; height: auto }"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head>\n<body>{svg[svg.index('<svg') :]}</body></html>\n"
    )
