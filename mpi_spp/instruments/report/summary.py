"""What a run did: as a JSON object, and as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.instruments.report.experts import expert_load, load_line
from mpi_spp.instruments.report.guidance import pair_table
from mpi_spp.instruments.report.tables import table
from mpi_spp.system.cpu import shortened
from mpi_spp.system.units import counted

_PHASES = ("prefill", "decode")


def timings_of(ranks: list[dict[str, Any]], total_s: float) -> dict[str, float]:
    """The phases in seconds, from each rank's moments.

    All ranks leave a barrier at "prefill_start". The last rank computes last: its clock tells when the prefill ended,
    and how long after that the sync was still exposed (to the barrier behind it).
    """
    first, last = ranks[0]["moments"], ranks[-1]["moments"]
    return {
        "load_s": first["prefill_start"],
        "prefill_s": last["prefill_end"] - last["prefill_start"],
        "sync_exposed_s": last["sync_end"] - last["prefill_end"],
        "first_token_s": first["first_token"] - first["prefill_start"],
        "start_to_first_token_s": first["first_token"],
        "decode_s": first.get("decode_end", first["first_token"]) - first["first_token"],
        "total_s": total_s,
    }


def summarize(
    ranks: list[dict[str, Any]], answer: dict[str, Any], configuration: dict[str, Any], total_s: float
) -> dict[str, Any]:
    """The JSON object of a run. `answer`: text, token_ids, prompt_tokens, finish_reason, and guidance where there is.

    Of a guidance pair the prefill is that of the conditional sequence, by the ranks that have it.
    """
    pair = answer.get("guidance")
    timings = timings_of(ranks[: len(pair[0]["ranks"])] if pair else ranks, total_s)
    later_tokens = len(answer["token_ids"]) - 1  # the first token is the prefill's
    return answer | {
        "world_size": len(ranks),
        "timings": timings,
        "prefill_tokens_per_s": answer["prompt_tokens"] / timings["prefill_s"],
        "decode_tokens_per_s": later_tokens / timings["decode_s"] if later_tokens else None,
        "bytes_sent": [rank["bytes_sent"] for rank in ranks],
        "experts": expert_load(ranks),
        "configuration": configuration,
        "ranks": ranks,
    }


def print_tables(summary: dict[str, Any], console: Console) -> None:
    """The timeline of the run, and one row a rank."""
    console.print(_timeline(summary))
    if summary.get("guidance"):
        console.print(pair_table(summary["guidance"], summary["configuration"]["guidance_scale"]))
    print_ranks(summary, console)


def print_ranks(summary: dict[str, Any], console: Console) -> None:
    """One row a rank, and what repeats a sampled answer."""
    load = expert_load(summary["ranks"])
    console.print(_ranks(summary["ranks"], load))
    for line in processor_lines(summary["ranks"]):
        console.print(line, highlight=False)
    if load is not None:
        console.print(load_line(load), highlight=False)
    if summary["configuration"].get("temperature"):
        console.print(_how_drawn(summary["configuration"]), highlight=False)


def processor_lines(ranks: list[dict[str, Any]]) -> list[str]:
    """Each kind of processor and kernels, with the hosts that have it; why these kernels."""
    hosts: dict[str, list[str]] = {}
    for rank in ranks:
        believed = f", taken for {rank['believed_cpu']} by MPI_SPP_CPU" if rank["believed_cpu"] else ""
        kernels = rank["kernels"] + (f" by {rank['compiler']}" if rank["compiler"] else "")
        kernels += "" if rank["activations"] == "exact" else f" with {rank['activations']} activations"
        told = f"{rank['cpu']} ({shortened(rank['instruction_sets'])}{believed})"
        told += "" if rank["cpu_quota"] is None else f", a quota of {rank['cpu_quota']:g} of its cores' time"
        hosts.setdefault(f"{told}; kernels {kernels}: {rank['kernels_reason']}", []).append(rank["host"])
    return [f"{', '.join(dict.fromkeys(names))}: {line}" for line, names in hosts.items()]


def _how_drawn(configuration: dict[str, Any]) -> str:
    names = ("temperature", "top_k", "top_p", "seed")
    return " ".join(["drawn with", *(f"--{name.replace('_', '-')} {configuration[name]}" for name in names)])


def _timeline(summary: dict[str, Any]) -> Table:
    timings = summary["timings"]
    prefill_start = timings["load_s"]
    prefill_end = prefill_start + timings["prefill_s"]
    decode_start = prefill_start + timings["first_token_s"]
    new_tokens = len(summary["token_ids"])
    rows = [
        ("prefill start", prefill_start, "from the start of the program: imports, weights, tokenizer"),
        ("prefill end", prefill_end, _rate(summary["prompt_tokens"], summary["prefill_tokens_per_s"], "prompt")),
        ("sync end", prefill_end + timings["sync_exposed_s"], _exposed(timings)),
        ("decode start", decode_start, "first token"),
        ("decode end", decode_start + timings["decode_s"], _rate(new_tokens, summary["decode_tokens_per_s"], "new")),
        ("total", timings["total_s"], f"finished by {summary['finish_reason']}"),
    ]
    made = table("moment", "s", "", title=counted(summary["world_size"], "rank"), wraps=[""])
    for name, seconds, note in rows:
        made.add_row(name, f"{seconds:.3f}", note)
    return made


def _exposed(timings: dict[str, float]) -> str:
    share = timings["sync_exposed_s"] / timings["prefill_s"]
    return f"exposed sync {timings['sync_exposed_s'] * 1e3:.1f} ms, {share:.1%} of the prefill"


def _rate(tokens: int, per_second: float | None, kind: str) -> str:
    rate = "" if per_second is None else f", {per_second:.1f} tokens/s"
    return f"{counted(tokens, f'{kind} token')}{rate}"


def _ranks(ranks: list[dict[str, Any]], load: dict[str, Any] | None) -> Table:
    columns = ("rank", "host", "device", "threads", "prefill", "decode", "vocabulary", "MB\nsent", "peak\nMB")
    made = table(*columns, *([] if load is None else ["expert\npairs"]), wraps=["host"])
    made.caption = "prefill, decode: layers, key/value heads of each"
    for number, rank in enumerate(ranks):
        vocabulary = rank["vocabulary"]
        made.add_row(
            str(rank["rank"]),
            rank["host"],
            rank["device"],
            str(rank["threads"]),
            *(f"{_span(rank[f'{verb}_layers'])}, {_span(rank[f'{verb}_kv_heads'])}" for verb in _PHASES),
            _span(vocabulary),
            f"{rank['bytes_sent'] / 1e6:.2f}",
            f"{rank['peak_memory_bytes'] / 1e6:.0f}",
            *([] if load is None else [f"{load['by_rank'][number]:,}"]),
        )
    return made


def _span(ends: list[int]) -> str:
    """Both ends included."""
    start, stop = ends
    return f"{start}-{stop - 1}" if stop > start else "none"
