"""Which variant of a peer counts, and how mpi-spp compares with it, round by round."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpi_spp.instruments.report.samples import describe

KINDS = ("prefill", "decode")
_HOPELESS = 0.85  # of the best variant's speed in the first round: more than the noise between two turns


@dataclass
class Entry:
    """A variant of a peer, and its tokens per second: by kind, one list of samples a round."""

    peer: str
    weights: str
    variant: str
    settings: dict[str, Any]
    version: str = ""
    reason: str = ""  # why it cannot be measured
    rounds: dict[str, list[list[float]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, result: dict[str, Any]) -> None:
        """Take the result of a turn."""
        self.version = result["version"]
        for kind in KINDS:
            self.rounds[kind].append(result[f"{kind}_tokens_per_s"])

    def last(self) -> str:
        """The latest turn, for people."""
        name = f"{self.peer} {self.weights} {self.variant}"
        if self.reason:
            return f"{name}: not available: {self.reason}"
        speeds = ", ".join(f"{kind} {self.medians(kind)[-1]:.1f} tokens/s" for kind in KINDS)
        return f"{name}: {speeds}"

    def medians(self, kind: str) -> list[float]:
        """The median of every round."""
        return [statistics.median(samples) for samples in self.rounds[kind]]


def survivors(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that may still be the best of their line, in prefill or in decode."""
    kept = []
    for entry in entries:
        line = [other for other in entries if _line(other) == _line(entry) and not other.reason]
        if not entry.reason and any(_speed(entry, k) >= _HOPELESS * max(_speed(e, k) for e in line) for k in KINDS):
            kept.append(entry)
    return kept


def summary_of(entries: Sequence[Entry], our_name: str) -> list[dict[str, Any]]:
    """A row for every peer and type of weights: the best variant of each kind, and our best of as many bits over it."""
    rows = []
    for line in _in_order(map(_line, entries)):
        ours = [entry for entry in entries if entry.peer == our_name and _alike(entry.weights) == _alike(line[1])]
        rows.append(_row([entry for entry in entries if _line(entry) == line], ours))
    return rows


def _row(line: list[Entry], ours: list[Entry]) -> dict[str, Any]:
    best = {kind: _best(line, kind) for kind in KINDS}
    entry = best["prefill"]
    row: dict[str, Any] = {"peer": line[0].peer, "weights": line[0].weights}
    row["reason"] = "" if entry else line[0].reason
    row["unavailable"] = {entry.variant: entry.reason for entry in line if entry.reason}
    if entry:
        row["version"] = entry.version
        row |= {kind: _cell(best[kind], _best(ours, kind), kind) for kind in KINDS}
    return row


def _cell(theirs: Entry | None, ours: Entry | None, kind: str) -> dict[str, Any]:
    """The peer's samples, and the median over the rounds of our speed over its speed."""
    assert theirs is not None
    ratios = []
    if ours and ours.peer != theirs.peer:
        ratios = [a / b for a, b in zip(ours.medians(kind), theirs.medians(kind), strict=False)]
    samples = [sample for turn in theirs.rounds[kind] for sample in turn]
    return {
        "variant": theirs.variant,
        **describe(samples),
        "ratios": ratios,
        "ratio": statistics.median(ratios) if ratios else None,
    }


def _best(line: Sequence[Entry], kind: str) -> Entry | None:
    """The fastest of those that were measured in most rounds."""
    measured = [entry for entry in line if entry.rounds[kind] and not entry.reason]
    return max(measured, key=lambda entry: (len(entry.rounds[kind]), _speed(entry, kind)), default=None)


def _speed(entry: Entry, kind: str) -> float:
    return statistics.median(entry.medians(kind))


def _alike(weights: str) -> str:
    """Which of our types of weights has as many bits."""
    return {"q4_0": "int4", "q4_1": "int4"}.get(weights, weights)


def _line(entry: Entry) -> tuple[str, str]:
    return entry.peer, entry.weights


def _in_order(lines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(lines))
