"""What each sequence of a guidance pair took."""

from typing import Any

from rich.table import Table

from mpi_spp.instruments.report.tables import table


def sequences_of(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the ranks' facts: each sequence's name, ranks, prompt tokens, chunks and seconds; none without guidance.

    The last of its ranks computes last, so its clock tells.
    """
    found: dict[str, dict[str, Any]] = {}
    for rank in ranks:
        for prefill in rank.get("sequences", ()):
            before = found.get(prefill["sequence"], {"ranks": []})
            found[prefill["sequence"]] = prefill | {"ranks": [*before["ranks"], rank["rank"]]}
    return list(found.values())


def pair_table(sequences: list[dict[str, Any]], scale: float) -> Table:
    """One row a sequence."""
    columns = ("sequence", "ranks", "prompt\ntokens", "prefill s", "exposed\nsync ms")
    made = table(*columns, title=f"guidance scale {scale}", wraps=["ranks"])
    for one in sequences:
        made.add_row(
            one["sequence"],
            ",".join(map(str, one["ranks"])),
            str(one["prompt_tokens"]),
            f"{one['prefill_s']:.3f}",
            f"{one['sync_exposed_s'] * 1e3:.1f}",
        )
    return made
