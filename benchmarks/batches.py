"""How many tokens a second a batch of sequences gets on one rank, by how many there are; and a prompt's.

    .venv/bin/python benchmarks/batches.py [--model smollm2-135m-instruct] [--scheme int4] [--length 512]

Every sequence has its own cache of so many positions. A step is the layers of the newest tokens and the choice of the
next ones. The counts take turns; medians of as many steps as fit into the seconds.
"""

import time
from collections.abc import Callable
from statistics import median

import click
import torch

from benchmarks import machine
from benchmarks.perplexity import Case, load
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.library import MPI
from mpi_spp.model.batch import Batch, Span, one_span
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.locate import locate
from mpi_spp.strategies.sampling.greedy import select

COUNTS = (1, 2, 4, 8, 16)


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--scheme", type=click.Choice(["int8", "int4"]), help="Of the weights.  [default: as they are]")
@click.option("--length", default=512, show_default=True, help="Positions of each sequence.")
@click.option("--seconds", default=2.0, show_default=True, help="For each count of sequences, in all.")
def main(model: str, scheme: str | None, length: int, seconds: float) -> None:
    """Print tokens per second."""
    machine.tell()
    case = Case(scheme=scheme, activations="int8" if scheme == "int4" else "exact")
    stage = load(locate(model, download=False), case)
    steps = {count: Step(stage, count, length) for count in COUNTS}
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    prefills = [prefill(stage, length) for _ in range(4)][1:]
    deadline = time.perf_counter() + seconds * len(COUNTS)
    while time.perf_counter() < deadline:
        for count, step in steps.items():
            step()
            times[count] += [timed(step) for _ in range(8)]
    rates = "  ".join(f"{count}: {count / median(times[count]):7.1f}" for count in COUNTS)
    click.echo(f"decode, tokens/s  {rates}   prefill of {length}: {length / median(prefills):.0f} tokens/s")


class Step:
    """One step of so many sequences, always at the same positions."""

    def __init__(self, stage: Stage, count: int, length: int) -> None:
        self._stage, self._layers = stage, range(stage.config.num_hidden_layers)
        self._comm, self._count = Communicator(MPI.COMM_SELF), count
        spans = []
        for row in range(count):
            cache = stage.new_cache(self._layers, length + 1)
            for part in (cache.keys, cache.values):
                part.normal_()
            spans.append(Span(range(row, row + 1), length, cache, length + 1))
        self._spans, self._ids = tuple(spans), torch.arange(count) + 100

    def __call__(self) -> None:
        stage, batch = self._stage, Batch(self._spans, self._stage.device)
        hidden = stage.forward(stage.embed(self._ids), batch, self._layers)
        select(stage, hidden, self._comm)


def prefill(stage: Stage, length: int) -> float:
    """The seconds of a prompt in one chunk."""
    layers = range(stage.config.num_hidden_layers)
    batch = one_span(range(length), stage.new_cache(layers, length), length)
    return timed(lambda: stage.forward(stage.embed(torch.arange(length)), batch, layers))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
