"""How fast are prefill and decode beside other engines on this machine? All take turns, A B C A B C.

    .venv/bin/python -m benchmarks.compare_peers [--model M] [--peer P] [--prompt-tokens 1024] [--rounds 5] [--json OUT]

Installs the peers from the package index, each into its own environment in the cache directory. A peer has one
line for each type of its weights; of several variants (arrangements, chunks, back ends) the best counts, for prefill
and decode apart.
"""

import importlib
import json as jsons
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, random_model
from benchmarks.peers import environment, ours
from benchmarks.peers.lines import Entry, summary_of, survivors
from benchmarks.peers.protocol import Job
from mpi_spp.model.loading import hub as store

_MODELS = ("smollm2-135m-instruct", *random_model.SHAPES)
_PEERS = environment.names()


@click.command()
@click.option("--model", "models", type=click.Choice(_MODELS), multiple=True, help="May be repeated.  [default: all]")
@click.option("--peer", "peers", type=click.Choice(_PEERS), multiple=True, help="May be repeated.  [default: all]")
@click.option("--arrangement", "arrangements", multiple=True, default=("2x1", "1x2"), show_default=True, help=ours.HELP)
@click.option("--weights", "kinds", multiple=True, help="Only these, as the table names them; may be repeated.")
@click.option("--variant", "variants", multiple=True, help="Of peers only these; may be repeated.")
@click.option("--prompt-tokens", type=click.IntRange(min=16), default=1024, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=65, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of every peer, in all.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of everyone.")
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True, help="Requests before each turn.")
@click.option("--repetitions", type=click.IntRange(min=1), default=3, show_default=True, help="Requests of a turn.")
@click.option("--json", "json", type=click.Path(dir_okay=False, writable=True), help="Write all samples to this file.")
def main(
    models: Sequence[str],
    peers: Sequence[str],
    arrangements: Sequence[str],
    kinds: Sequence[str],
    variants: Sequence[str],
    rounds: int,
    json: str | None,
    **lengths: int,
) -> None:
    """Print each peer's median speeds, and mpi-spp's speed over the peer's."""
    results, told = [], machine.tell()
    for model in models or _MODELS:
        entries = [*ours.entries(arrangements), *_entries_of(peers or _PEERS)]
        entries = [entry for entry in entries if not kinds or entry.weights in kinds]
        entries = [entry for entry in entries if not variants or entry.peer == ours.NAME or entry.variant in variants]
        _measure(entries, _job(model, lengths), rounds)
        rows = summary_of(entries, ours.NAME)
        Console(width=150).print(_table(f"{model}, {lengths}, {rounds} rounds", rows))
        results.append({"model": model, "rows": rows, "variants": [asdict(entry) for entry in entries]})
    if json:
        measured = {"benchmark": "peers", "machine": told, "workload": lengths | {"rounds": rounds}, "results": results}
        measured["measured_at"] = time.strftime("%Y-%m-%d %H:%M:%S")
        Path(json).write_text(jsons.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _entries_of(peers: Sequence[str]) -> list[Entry]:
    """An entry for every variant of these peers."""
    return [
        Entry(peer, weights, variant, settings)
        for peer in peers
        for weights, variants in importlib.import_module(f"benchmarks.peers.{peer}").VARIANTS.items()
        for variant, settings in variants.items()
    ]


def _job(model: str, lengths: dict[str, int]) -> Job:
    directory = random_model.get(model) if model in random_model.SHAPES else store.get(model)
    vocab_size = jsons.loads((directory / "config.json").read_text())["vocab_size"]
    return Job(model=str(directory), work="", vocab_size=vocab_size, variant={}, **lengths)


def _measure(entries: list[Entry], job: Job, rounds: int) -> None:
    """Let the entries take turns; after the first round only those that may be the best of their line."""
    turns = entries
    for number in range(rounds):
        for entry in turns:
            _take_turn(entry, job)
            click.echo(f"round {number + 1}: {entry.last()}", err=True)
        turns = survivors(turns)


def _take_turn(entry: Entry, job: Job) -> None:
    try:
        if entry.peer == ours.NAME:
            result = ours.measure(replace(job, variant=entry.settings))
        else:
            work = str(environment.directory_of(entry.peer) / "models")
            result = environment.measure(entry.peer, replace(job, variant=entry.settings, work=work))
    except environment.NotAvailable as error:
        entry.reason = str(error)
    else:
        entry.add(result)


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table("peer", "weights", title=title)
    for kind in ("prefill", "decode"):
        for name in (f"{kind} tokens/s", "best variant", "mpi-spp / peer"):
            table.add_column(name)
    for row in rows:
        if row["reason"]:
            table.add_row(row["peer"], row["weights"], f"not available: {row['reason']}")
        else:
            cells = [row[kind] for kind in ("prefill", "decode")]
            shown = [(f"{c['median']:.1f}", c["variant"], f"{c['ratio']:.3f}" if c["ratio"] else "") for c in cells]
            table.add_row(f"{row['peer']} {row['version']}", row["weights"], *shown[0], *shown[1])
    return table


if __name__ == "__main__":
    main()
