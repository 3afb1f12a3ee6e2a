"""A simulation as a table and as a picture, from its plain data."""

from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.report.plots import save

_ORIGINS = {"layers": "layers of the prefill", "steps": "steps of the decode", "links": "messages"}
_COLUMNS = (
    "ranks", "hosts", "mesh", "prefill", "sync", "decode", "chunks", "prefill s", "exposed sync s", "decode tokens/s",
    "request s", "speed-up", "efficiency",
)  # fmt: skip
_LINES = {"prefill": "prefill", "sync": "exposed sync", "token": "one new token", "request": "request"}


def print_simulation(data: dict[str, Any], console: Console) -> None:
    """A row for each count of ranks, where the figures come from, and where more ranks stop paying."""
    lengths = f"{data['prompt_tokens']} + {data['new_tokens']} tokens"
    run = f"{data['dtype']}, {data['kernels']}, threads {data['threads']}, {data['ranks_per_host']} ranks a host"
    table = Table(*_COLUMNS, title=f"{data['model']}, {lengths}, {run}")
    for row in data["rows"]:
        table.add_row(*_cells(row))
    simulated = [row for row in data["rows"] if "refused" not in row]
    origins = simulated[-1]["origins"]
    table.caption = ", ".join(f"{_ORIGINS[name]}: {origin}" for name, origin in origins.items())
    console.print(table)
    for row in data["rows"]:
        if "refused" in row:
            console.print(f"{row['ranks']} ranks: {row['refused']}", highlight=False)
    console.print(knee_in_words(data))


def knee_in_words(data: dict[str, Any]) -> str:
    """One sentence."""
    if data["knee"] is None:
        return f"Every step that was tried gains {data['worth']:.0%} or more for a doubling of ranks."
    return f"After {data['knee']} ranks a doubling of ranks gains less than {data['worth']:.0%}."


def _cells(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return [str(row["ranks"]), *["-"] * (len(_COLUMNS) - 1)]
    seconds = row["seconds"]
    return [
        str(row["ranks"]),
        str(row["hosts"]),
        row["mesh"],
        row["prefill"],
        row["sync_strategy"],
        row["decode"],
        f"{row['chunks']} to {row['longest_chunk']}",
        f"{seconds['prefill']:.4g}",
        f"{seconds['sync']:.4g}",
        f"{row['tokens_per_s']['decode']:.1f}",
        f"{seconds['request']:.4g}",
        f"{row['speed_up']:.2f}",
        f"{row['efficiency']:.1%}",
    ]


def draw(data: dict[str, Any], path: str) -> None:
    """Seconds, and efficiency, against ranks; all axes are logarithmic. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    rows = [row for row in data["rows"] if "refused" not in row]
    ranks = [row["ranks"] for row in rows]
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    times, efficiency = figure.subplots(1, 2)
    for name, label in _LINES.items():
        seconds = [row["seconds"][name] for row in rows]
        if max(seconds) > 0:
            times.plot(ranks, [value or float("nan") for value in seconds], marker=".", label=label)
    efficiency.plot(ranks, [row["efficiency"] for row in rows], marker=".", color="black", label="efficiency")
    for axes, what in ((times, "seconds"), (efficiency, "speed-up over 1 rank / ranks")):
        axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel=what)
        axes.set_xticks(ranks, minor=False)
        axes.tick_params(axis="x", labelrotation=45)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if data["knee"] is not None:
            axes.axvline(data["knee"], linestyle=":", color="grey", label="knee")
        axes.legend()
    request = f"{PurePath(data['model']).name}, {data['prompt_tokens']} + {data['new_tokens']} tokens"
    figure.suptitle(f"{request}\n{knee_in_words(data)}", fontsize="medium")
    save(figure, "--plot", path, dpi=120)
