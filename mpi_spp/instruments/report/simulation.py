"""A simulation as a table and as a picture, from its plain data."""

from pathlib import PurePath
from typing import Any

from rich.console import Console

from mpi_spp.instruments.report.plots import save
from mpi_spp.instruments.report.tables import table
from mpi_spp.system.units import counted

_ORIGINS = {"layers": "layers of the prefill", "steps": "steps of the decode", "links": "messages"}
_STRATEGIES = "prefill\nsync\ndecode"
_COLUMNS = (
    "mesh", "chunks", "prefill\ns", "exposed\nsync s", "decode\ntokens/s", "request\ns", "speed-\nup",
    "effi-\nciency",
)  # fmt: skip
_LINES = {"prefill": "prefill", "sync": "exposed sync", "token": "one new token", "request": "request"}


def print_simulation(data: dict[str, Any], console: Console) -> None:
    """A row for each count of ranks, where the figures come from, and where more ranks stop paying."""
    lengths = f"{data['prompt_tokens']} + {data['new_tokens']} tokens"
    hosts = f"{counted(data['ranks_per_host'], 'rank')} a host"
    run = f"{data['dtype']}, {data['kernels']}, threads {data['threads']}, {hosts}"
    simulated = [row for row in data["rows"] if "refused" not in row]
    made = table("ranks", _STRATEGIES, *_COLUMNS, title=f"{data['model']}, {lengths}, {run}", wraps=["mesh"])
    for row in data["rows"]:
        made.add_row(str(row["ranks"]), *_cells(row))
    origins = simulated[-1]["origins"]
    made.caption = ", ".join(f"{_ORIGINS[name]}: {origin}" for name, origin in origins.items())
    console.print(made)
    for row in data["rows"]:
        if "refused" in row:
            console.print(f"{counted(row['ranks'], 'rank')}: {row['refused']}", highlight=False)
    console.print(knee_in_words(data))


def knee_in_words(data: dict[str, Any]) -> str:
    """One sentence."""
    if data["knee"] is None:
        return f"Every step that was tried gains {data['worth']:.0%} or more for a doubling of ranks."
    return f"After {counted(data['knee'], 'rank')} a doubling of ranks gains less than {data['worth']:.0%}."


def _cells(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return ["-"] * (len(_COLUMNS) + 1)
    seconds = row["seconds"]
    return [
        f"{row['prefill']}\n{row['sync_strategy']}\n{row['decode']}",
        row["mesh"].replace(",", " "),
        f"{row['chunks']} to {row['longest_chunk']}",
        f"{seconds['prefill']:.4g}",
        f"{seconds['sync']:.3g}",
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
