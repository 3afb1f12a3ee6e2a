"""What a batch did: as a JSON object, and as one line."""

from collections.abc import Mapping
from typing import Any

from mpi_spp.batch.work import Work
from mpi_spp.system.units import counted


def summarize(
    work: Work, moments: Mapping[str, float], ranks: list[dict[str, Any]], answers: Mapping[int, int]
) -> dict[str, Any]:
    """`moments`: seconds from the start, "load" and "total"; `answers`: of this run, by each replica's first rank."""
    totals, output = work.totals, work.output
    seconds = moments["total"] - moments["load"]
    return {
        "lines": output.kept + totals.answered + totals.skipped,
        "kept": output.kept,
        "answered": totals.answered,
        "skipped": totals.skipped,
        "skipped_in_all": output.failed + totals.skipped,
        "prompt_tokens": totals.prompt_tokens,
        "new_tokens": totals.new_tokens,
        "new_tokens_per_s": totals.new_tokens / seconds if totals.new_tokens else None,
        "timings": {"load_s": moments["load"], "answer_s": seconds, "total_s": moments["total"]},
        "answers_by_replica": {str(rank): answers[rank] for rank in sorted(answers)},
        "ranks": ranks,
    }


def one_line(summary: Mapping[str, Any]) -> str:
    """For people."""
    kept = f", {summary['kept']} were there already" if summary["kept"] else ""
    rate = f", {summary['new_tokens_per_s']:.1f} new tokens/s" if summary["new_tokens"] else ""
    return (
        f"{counted(summary['lines'], 'line')}: {summary['answered']} answered, {summary['skipped']} skipped{kept};"
        f" {counted(summary['prompt_tokens'], 'prompt token')}, {counted(summary['new_tokens'], 'new token')}{rate}"
    )
