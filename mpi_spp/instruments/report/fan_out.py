"""What a run with several answers did: as a JSON object, and as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.instruments.report.summary import print_ranks
from mpi_spp.instruments.report.tables import table
from mpi_spp.system.units import counted


def fan_out_timings(ranks: list[dict[str, Any]], total_s: float) -> dict[str, float]:
    """The phases in seconds, from each rank's moments; the fan-out lasts until the last rank is done.

    All ranks leave a barrier at "prefill_start", and another one at "sync_end".
    """
    last = ranks[-1]["moments"]
    return {
        "load_s": ranks[0]["moments"]["prefill_start"],
        "prefill_s": last["prefill_end"] - last["prefill_start"],
        "sync_exposed_s": last["sync_end"] - last["prefill_end"],
        "fan_out_s": max(rank["moments"]["fan_out_end"] - rank["moments"]["sync_end"] for rank in ranks),
        "total_s": total_s,
    }


def summarize_fan_out(
    ranks: list[dict[str, Any]], told: dict[str, Any], configuration: dict[str, Any], total_s: float
) -> dict[str, Any]:
    """The JSON object of a run. `told`: answers, each with its token_ids; shared_tokens."""
    timings = fan_out_timings(ranks, total_s)
    new_tokens = sum(len(answer["token_ids"]) for answer in told["answers"])
    answering_s = timings["prefill_s"] + timings["sync_exposed_s"] + timings["fan_out_s"]
    return told | {
        "world_size": len(ranks),
        "timings": timings,
        "new_tokens": new_tokens,
        "prefill_tokens_per_s": told["shared_tokens"] / timings["prefill_s"],
        "fan_out_tokens_per_s": new_tokens / timings["fan_out_s"],
        "tokens_per_s": new_tokens / answering_s,  # of all answers, over prefill, sync and fan-out
        "bytes_sent": [rank["bytes_sent"] for rank in ranks],
        "configuration": configuration,
        "ranks": ranks,
    }


def print_fan_out(summary: dict[str, Any], console: Console) -> None:
    """The timeline of the run, and one row a rank."""
    console.print(_timeline(summary))
    print_ranks(summary, console)


def _timeline(summary: dict[str, Any]) -> Table:
    timings, answers = summary["timings"], summary["answers"]
    prefill_end = timings["load_s"] + timings["prefill_s"]
    sync_end = prefill_end + timings["sync_exposed_s"]
    shared = f"{counted(summary['shared_tokens'], 'shared token')}, {summary['prefill_tokens_per_s']:.1f} tokens/s"
    exposed = f"exposed sync {timings['sync_exposed_s'] * 1e3:.1f} ms"
    done = f"{counted(len(answers), 'answer')}, {counted(summary['new_tokens'], 'new token')}"
    rows = [
        ("prefill start", timings["load_s"], "from the start of the program: imports, weights, tokenizer"),
        ("prefill end", prefill_end, shared),
        ("sync end", sync_end, exposed),
        ("fan-out end", sync_end + timings["fan_out_s"], f"{done}, {summary['fan_out_tokens_per_s']:.1f} tokens/s"),
        ("total", timings["total_s"], f"{summary['tokens_per_s']:.1f} tokens/s from the prefill's start"),
    ]
    made = table("moment", "s", "", title=counted(summary["world_size"], "rank"), wraps=[""])
    for name, seconds, note in rows:
        made.add_row(name, f"{seconds:.3f}", note)
    return made
