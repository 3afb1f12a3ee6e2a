"""Measured communication as a picture: time and bandwidth against the size of a message."""

from collections.abc import Mapping, Sequence
from typing import Any

from mpi_spp.instruments.report.plots import save
from mpi_spp.system.units import counted

_LINES = {"blocking": "-", "nonblocking": "--", "persistent": ":"}
_INCHES = 3.6  # of a panel


def plot_comm(result: Mapping[str, Any], path: str) -> None:
    """One column for each operation, a line for each transport and mode; both axes are logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    operations = list(dict.fromkeys(case["operation"] for case in result["cases"]))
    transports = list(dict.fromkeys(case["transport"] for case in result["cases"]))
    figure = Figure(figsize=(_INCHES * max(2, len(operations)), 2 * _INCHES), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    panels = figure.subplots(2, len(operations), squeeze=False, sharex=True, sharey="row")
    drawn: dict[str, Any] = {}
    for (above, below), operation in zip(panels.T, operations, strict=True):
        for name, series in _series(result["cases"], operation).items():
            transport, mode = name.split()
            style = {
                "color": f"C{transports.index(transport)}",
                "linestyle": _LINES[mode],
                "marker": ".",
                "label": name,
            }
            sizes = [case["message_bytes"] for case in series]
            (drawn[name],) = above.loglog(sizes, [case["seconds"] * 1e6 for case in series], **style)
            below.loglog(sizes, [case["median"] / 1e9 for case in series], **style)
        above.set_title(operation)
        below.set_xlabel("message, bytes")
        below.set_xscale("log", base=2)
        for panel in (above, below):
            panel.grid(True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("time, us")
    panels[1][0].set_ylabel("received by a rank, GB/s")
    figure.suptitle(f"{counted(result['num_ranks'], 'rank')}, {result['machine']['mpi']}, {result['machine']['cpu']}")
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=4)
    save(figure, "--plot", path)


def _series(cases: Sequence[Mapping[str, Any]], operation: str) -> dict[str, list[Mapping[str, Any]]]:
    """The cases of one operation by transport and mode."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        if case["operation"] == operation:
            series.setdefault(f"{case['transport']} {case['mode']}", []).append(case)
    return series
