"""`mpi-spp trace`: what a file of `--trace` says, in numbers and as a picture."""

from pathlib import Path

import click

from mpi_spp.cli._options import File, json_option
from mpi_spp.cli._output import check_outputs, write_json

_FILE = click.argument("file", type=File(path_type=Path))


@click.group("trace")
def command() -> None:
    """Read the file that `--trace FILE` of a run has written. Perfetto (https://ui.perfetto.dev) opens it, too."""


@command.command()
@_FILE
@json_option("Write the numbers, and every segment of the critical path, to this file;")
def summary(file: Path, json: str | None) -> None:
    """How busy each rank was and what it waited for, and the critical path.

    busy: it computed; bubble: it waited for a rank that was late; exposed: it waited for a message that was on its way;
    other: none of these. Counted from the start of the first prefill to the end of all computation.
    """
    check_outputs(json, {"FILE": file})
    from mpi_spp.instruments.trace.perfetto import read_trace
    from mpi_spp.instruments.trace.summary import print_trace_summary, summarize_trace

    found = summarize_trace(read_trace(file))
    if json != "-":
        import sys

        from mpi_spp.instruments.report.tables import console

        print_trace_summary(found, console(sys.stdout))
    write_json(json, {"file": str(file), **found})


@command.command()
@_FILE
@click.argument("picture", type=File(path_type=Path))
@json_option("Write which ranks and how many events were drawn to this file;")
def plot(file: Path, picture: Path, json: str | None) -> None:
    """Draw the ranks as rows, chunks coloured, into a .png, a .svg, or a .html that needs no other file.

    Needs matplotlib: pip install 'mpi-spp[plots]'.
    """
    from mpi_spp.instruments.report.plots import require_plots
    from mpi_spp.instruments.trace.perfetto import read_trace
    from mpi_spp.instruments.trace.plot import SUFFIXES, write_plot

    check_outputs(json, {"FILE": file}, PICTURE=picture)
    require_plots(picture, "PICTURE", SUFFIXES)
    timelines = read_trace(file)
    write_plot(picture, timelines, file.name)
    events = {str(timeline.rank): len(timeline.events) for timeline in timelines}
    write_json(json, {"file": str(file), "picture": str(picture), "events": events})
