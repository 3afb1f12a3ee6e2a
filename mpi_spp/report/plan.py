"""A forecast as tables, from its plain data."""

from typing import Any

from rich.console import Console
from rich.table import Table

_ORIGINS = {"layers": "layers of the prefill", "steps": "steps of the decode", "links": "messages"}


def print_plan(plan: dict[str, Any], joints: list[dict[str, Any]], console: Console) -> None:
    """Each rank, the times, and every prefill with every decode."""
    console.print(_ranks(plan))
    console.print(_traffic(plan))
    console.print(_times(plan))
    console.print(_joints(joints))
    mapped = max(rank["mapped_bytes"] for rank in plan["ranks"])
    console.print(
        f"The embedding stays in its file, which the ranks of a host share: up to {_mib(mapped)} MiB of it are mapped"
        " on a rank beside these totals, and the system takes them back when it wants."
    )


def _ranks(plan: dict[str, Any]) -> Table:
    columns = ("rank", "host", "prefill layers", "decode layers", "KV heads")
    sizes = ("weights", "cache", "buffers", "program", "total")
    table = Table(*columns, *(f"{name} MiB" for name in sizes), title=f"memory, {plan['dtype']}, {plan['kernels']}")
    for rank in plan["ranks"]:
        heads = " / ".join(_span(rank[f"{phase}_kv_heads"]) for phase in ("prefill", "decode"))
        spans = (_span(rank["prefill_layers"]), _span(rank["decode_layers"]), heads)
        table.add_row(str(rank["rank"]), rank["host"], *spans, *(_mib(rank[f"{name}_bytes"]) for name in sizes))
    return table


def _traffic(plan: dict[str, Any]) -> Table:
    table = Table("rank", "phase", "messages", "bytes sent", "bytes received", title="messages and bytes per token")
    for rank in plan["ranks"]:
        traffic = rank["traffic"]
        for name, key, tokens in (
            ("prefill", "prefill", plan["prompt_tokens"]),
            (f"sync {plan['sync_strategy']}", "sync", plan["prompt_tokens"]),
            ("decode", "decode_per_token", 1),
        ):
            values = (traffic[key][field] / tokens for field in ("messages", "sent", "received"))
            table.add_row(
                str(rank["rank"]), name, *(f"{value:.4g}" if value < 100 else f"{value:.0f}" for value in values)
            )
    return table


def _times(plan: dict[str, Any]) -> Table:
    seconds, rates, new = plan["seconds"], plan["tokens_per_s"], plan["new_tokens"]
    chunks = plan["chunks"]
    rows = (
        (
            "prefill",
            seconds["prefill"],
            f"{plan['prompt_tokens']} tokens in {len(chunks)} chunks of up to {max(chunks)}",
        ),
        ("exposed sync", seconds["sync"], f"prefill and sync: {rates['prefill']:.0f} tokens/s"),
        ("one new token", seconds["token"], f"{rates['decode']:.1f} tokens/s"),
        ("request", seconds["request"], f"with {new} new tokens"),
    )
    table = Table("predicted", "s", "", title=f"{plan['prefill']} then {plan['decode']} on {plan['mesh']}")
    for name, value, note in rows:
        table.add_row(name, f"{value:.4g}", note)
    table.caption = ", ".join(f"{_ORIGINS[name]}: {origin}" for name, origin in plan["speeds"]["origins"].items())
    return table


def _joints(joints: list[dict[str, Any]]) -> Table:
    columns = ("prefill", "leaves", "decode", "wants", "syncs", "auto takes", "MiB received by a rank", "exposed ms")
    table = Table(*columns, title="which sync joins which prefill with which decode")
    for joint in joints:
        table.add_row(
            *(joint[name] for name in ("prefill", "source", "decode", "target")),
            ", ".join(joint["syncs"]),
            joint["chosen"],
            *(
                (_mib(joint["received_bytes"]), f"{joint['exposed_s'] * 1e3:.3g}")
                if "exposed_s" in joint
                else ("-", "-")
            ),
        )
    return table


def _span(span: list[int]) -> str:
    return f"{span[0]}-{span[1] - 1}" if span[1] > span[0] else "none"


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f}"
