"""A forecast as tables, from its plain data."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mpi_spp.instruments.report.tables import table
from mpi_spp.system.units import counted

_ORIGINS = {"layers": "layers of the prefill", "steps": "steps of the decode", "links": "messages"}


def print_plan(plan: dict[str, Any], joints: list[dict[str, Any]] | None, console: Console) -> None:
    """What each rank holds, and the times in a line; with joints, all of it in tables."""
    console.print(_ranks(plan))
    if joints is None:
        console.print(_in_short(plan))
        return
    console.print(_traffic(plan))
    console.print(_times(plan))
    console.print(_joints(joints))
    mapped = max(rank["mapped_bytes"] for rank in plan["ranks"])
    console.print(
        f"The embedding stays in its file, which the ranks of a host share: up to {_mib(mapped)} MiB of it are mapped"
        " on a rank beside these totals, and the system takes them back when it wants."
    )


def _in_short(plan: dict[str, Any]) -> str:
    seconds, rates = plan["seconds"], plan["tokens_per_s"]
    lengths = f"{counted(plan['prompt_tokens'], 'token')} and {plan['new_tokens']} new ones"
    return (
        f"\npredicted for {lengths}: {seconds['request']:.4g} s, of which prefill {seconds['prefill']:.4g} s"
        f" and exposed sync {seconds['sync']:.4g} s; {rates['decode']:.1f} new tokens/s ({_origins(plan)})\n"
        "--all shows messages, times, and every prefill with every decode"
    )


def _origins(plan: dict[str, Any]) -> str:
    return ", ".join(f"{_ORIGINS[name]}: {origin}" for name, origin in plan["speeds"]["origins"].items())


def _ranks(plan: dict[str, Any]) -> Table:
    columns = ("rank", "host", "prefill\nlayers", "decode\nlayers", "KV heads")
    sizes = ("weights", "cache", "buffers", "program", "total")
    title = f"memory in MiB, {plan['dtype']}, {plan['kernels']}"
    made = table(*columns, *sizes, title=title, wraps=["host"])
    for rank in plan["ranks"]:
        heads = " / ".join(_span(rank[f"{phase}_kv_heads"]) for phase in ("prefill", "decode"))
        spans = (_span(rank["prefill_layers"]), _span(rank["decode_layers"]), heads)
        made.add_row(str(rank["rank"]), rank["host"], *spans, *(_mib(rank[f"{name}_bytes"]) for name in sizes))
    return made


def _traffic(plan: dict[str, Any]) -> Table:
    columns = ("rank", "phase", "messages", "bytes sent", "bytes received")
    made = table(*columns, title="messages and bytes per token", wraps=["phase"])
    for rank in plan["ranks"]:
        traffic = rank["traffic"]
        for name, key, tokens in (
            ("prefill", "prefill", plan["prompt_tokens"]),
            (f"sync {plan['sync_strategy']}", "sync", plan["prompt_tokens"]),
            ("decode", "decode_per_token", 1),
        ):
            values = (traffic[key][field] / tokens for field in ("messages", "sent", "received"))
            made.add_row(
                str(rank["rank"]), name, *(f"{value:.4g}" if value < 100 else f"{value:.0f}" for value in values)
            )
    return made


def _times(plan: dict[str, Any]) -> Table:
    seconds, rates, new = plan["seconds"], plan["tokens_per_s"], plan["new_tokens"]
    chunks = plan["chunks"]
    rows = (
        (
            "prefill",
            seconds["prefill"],
            f"{counted(plan['prompt_tokens'], 'token')} in {counted(len(chunks), 'chunk')} of up to {max(chunks)}",
        ),
        ("exposed sync", seconds["sync"], f"prefill and sync: {rates['prefill']:.0f} tokens/s"),
        ("one new token", seconds["token"], f"{rates['decode']:.1f} tokens/s"),
        ("request", seconds["request"], f"with {counted(new, 'new token')}"),
    )
    made = table("predicted", "s", "", title=f"{plan['prefill']} then {plan['decode']} on {plan['mesh']}", wraps=[""])
    for name, value, note in rows:
        made.add_row(name, f"{value:.4g}", note)
    made.caption = _origins(plan)
    return made


def _joints(joints: list[dict[str, Any]]) -> Table:
    columns = ("prefill", "leaves", "decode", "wants", "syncs", "auto\ntakes", "MiB to\na rank", "exposed\nms")
    title = "which sync joins which prefill with which decode"
    made = table(*columns, title=title, wraps=["leaves", "wants", "syncs"])
    for joint in joints:
        made.add_row(
            *(joint[name] for name in ("prefill", "source", "decode", "target")),
            ", ".join(joint["syncs"]),
            joint["chosen"],
            *(
                (_mib(joint["received_bytes"]), f"{joint['exposed_s'] * 1e3:.3g}")
                if "exposed_s" in joint
                else ("-", "-")
            ),
        )
    return made


def _span(span: list[int]) -> str:
    return f"{span[0]}-{span[1] - 1}" if span[1] > span[0] else "none"


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f}"
