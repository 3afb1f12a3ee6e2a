"""What the doctor has found, as a table for people."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from mpi_spp.instruments.report.tables import table

_STYLES = {"failure": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
_MOST_HOSTS = 3  # that are named; of more the number is told


def print_findings(findings: list[dict[str, Any]], num_ranks: int, console: Console) -> None:
    """One row each: whom it is about, unless that is everybody; what; what to do. And a line that counts them."""
    made = table("", "check", "finding", wraps=["finding"])
    for finding in findings:
        level = finding["level"]
        advice = f"[bold]{escape(finding['do'])}[/]" if finding["do"] else ""
        lines = (escape(_where(finding, num_ranks)), escape(finding["what"]), advice)
        made.add_row(f"[{_STYLES[level]}]{level}[/]", finding["id"], "\n".join(filter(None, lines)))
    console.print(made)
    counts = Counter(finding["level"] for finding in findings)
    console.print(", ".join(f"{counts[level]} {level}" for level in _STYLES), highlight=False)


def ranges(numbers: Sequence[int]) -> str:
    """`0-2, 5` of 0, 1, 2, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def _where(finding: dict[str, Any], num_ranks: int) -> str:
    """`node1, node2: ranks 0-3`; nothing when it is about all ranks."""
    hosts, ranks = finding["hosts"], finding["ranks"]
    if len(ranks) == num_ranks:
        return ""
    named = ", ".join(hosts) if len(hosts) <= _MOST_HOSTS else f"{len(hosts)} hosts"
    return f"{named}: rank{'s' if len(ranks) > 1 else ''} {ranges(ranks)}"
