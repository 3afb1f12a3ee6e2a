"""The numbers of a run: from each rank's moments to the JSON object and the tables."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from mpi_spp.instruments.report.fan_out import print_fan_out, summarize_fan_out
from mpi_spp.instruments.report.guidance import sequences_of
from mpi_spp.instruments.report.summary import print_tables, summarize

MOMENTS = [  # of rank 0 and of the last rank, whose clocks began at different times
    {"prefill_start": 2.0, "prefill_end": 2.5, "sync_end": 3.25, "first_token": 3.5, "decode_end": 5.5},
    {"prefill_start": 1.0, "prefill_end": 2.0, "sync_end": 2.25, "first_token": 2.5, "decode_end": 4.5},
]
ANSWER = {"text": "ab", "token_ids": [1, 2, 3, 4, 5], "prompt_tokens": 100, "finish_reason": "length"}


def rank_facts(rank: int, moments: dict[str, float], **changes: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "host": "node-a",
        "device": "cpu",
        "threads": 4,
        "affinity": [0, 1, 2, 3],
        "cpu": "A CPU",
        "instruction_sets": ["avx", "avx2"],
        "believed_cpu": None,
        "cpu_quota": None,
        "kernels": "native-amx",
        "kernels_reason": "asked for",
        "activations": "exact",
        "compiler": "gcc 12",
        "prefill_layers": [rank * 3, rank * 3 + 3],
        "prefill_kv_heads": [0, 3],
        "decode_layers": [0, 9],
        "decode_kv_heads": [rank, rank + 1],
        "vocabulary": [rank * 10, rank * 10 + 10],
        "peak_memory_bytes": 500_000_000,
        "bytes_sent": 1_000_000 + rank,
        "experts": {"routed": [3, 1 + rank], "computed": [4 * rank, 2]},
        "moments": moments,
    } | changes


def make(answer: dict[str, Any] = ANSWER, moments: list[dict[str, float]] = MOMENTS) -> dict[str, Any]:
    ranks = [rank_facts(rank, of_rank) for rank, of_rank in enumerate(moments)]
    return summarize(ranks, answer, {"chunk_size": 128}, total_s=6.0)


def table_text(summary: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_tables(summary, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    return text


def test_processors_and_kernels_are_named_once_a_kind() -> None:
    lesser = {"host": "node-b", "believed_cpu": "sse2", "kernels": "widened", "compiler": None}
    by_codes = {"host": "node-c", "activations": "int8"}
    ranks = [rank_facts(0, MOMENTS[0]), rank_facts(1, MOMENTS[0]), rank_facts(2, MOMENTS[1], **lesser)]
    ranks.append(rank_facts(3, MOMENTS[1], **by_codes))
    text = table_text(summarize(ranks, ANSWER, {}, total_s=6.0))
    assert text.count("node-a: A CPU (avx2); kernels native-amx by gcc 12: asked for\n") == 1
    assert text.count("node-b: A CPU (avx2, taken for sse2 by MPI_SPP_CPU); kernels widened: asked for\n") == 1
    told = "node-c: A CPU (avx2); kernels native-amx by gcc 12 with int8 activations: asked for"
    assert told in " ".join(text.split())


def test_timings() -> None:
    """Prefill and sync by the last rank's clock, which computes last; the answer by rank 0's."""
    assert make()["timings"] == pytest.approx(
        {
            "load_s": 2.0,
            "prefill_s": 1.0,
            "sync_exposed_s": 0.25,
            "first_token_s": 1.5,
            "start_to_first_token_s": 3.5,
            "decode_s": 2.0,
            "total_s": 6.0,
        }
    )


def test_rates() -> None:
    """The first token is the prefill's, so four of five are decoded."""
    summary = make()
    assert summary["prefill_tokens_per_s"] == pytest.approx(100.0)
    assert summary["decode_tokens_per_s"] == pytest.approx(4 / 2.0)


def test_one_token_has_no_decode() -> None:
    moments = [{name: at for name, at in of_rank.items() if name != "decode_end"} for of_rank in MOMENTS]
    summary = make(ANSWER | {"token_ids": [1]}, moments)
    assert summary["timings"]["decode_s"] == 0.0
    assert summary["decode_tokens_per_s"] is None
    assert "1 new token" in table_text(summary)


def test_one_rank() -> None:
    summary = make(moments=MOMENTS[:1])
    assert summary["world_size"] == 1
    assert summary["timings"]["prefill_s"] == pytest.approx(0.5)


def test_the_object_is_json_and_complete() -> None:
    summary = json.loads(json.dumps(make()))
    assert set(summary) >= {
        *ANSWER,
        "world_size",
        "timings",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "bytes_sent",
        "configuration",
        "ranks",
    }
    assert summary["bytes_sent"] == [1_000_000, 1_000_001]
    assert summary["configuration"] == {"chunk_size": 128}


def test_tables_show_every_moment_and_rank() -> None:
    text = table_text(make())
    for moment, seconds in (
        ("prefill start", "2.000"),
        ("prefill end", "3.000"),
        ("sync end", "3.250"),
        ("decode start", "3.500"),
        ("decode end", "5.500"),
        ("total", "6.000"),
    ):
        assert any(moment in line and seconds in line for line in text.splitlines()), moment
    assert "exposed sync 250.0 ms, 25.0% of the prefill" in text
    assert "100 prompt tokens, 100.0 tokens/s" in text
    assert "0-2" in text and "3-5" in text


def test_what_repeats_a_draw_is_shown() -> None:
    summary = make()
    assert "--seed" not in table_text(summary)
    summary["configuration"] |= {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "seed": 128703088}
    assert "--temperature 0.8 --top-k 0 --top-p 0.95 --seed 128703088" in table_text(summary)


def test_a_rank_without_vocabulary() -> None:
    summary = make()
    summary["ranks"][1]["vocabulary"] = [131, 131]
    assert "none" in table_text(summary)


def test_how_evenly_experts_were_used() -> None:
    """Pairs by rank in their column, and both imbalances; nothing of it for a model without experts."""
    text = table_text(make())
    assert "9 pairs of a token and an expert; most over mean: experts 1.33 (number 0), ranks 1.50" in " ".join(
        text.split()
    )
    rows = [line.split() for line in text.splitlines() if "node-a" in line and "cpu" in line]
    assert [row[-1] for row in rows] == ["2", "6"]
    without = make()
    for rank in without["ranks"]:
        rank["experts"] = None
    assert "pairs" not in table_text(without)


def test_several_answers() -> None:
    """Prefill and sync by the last rank's clock; the fan-out lasts as long as that of the slowest rank."""
    moments = [
        {"prefill_start": 1.0, "prefill_end": 2.0, "sync_end": 3.0, "fan_out_end": 7.0},
        {"prefill_start": 2.0, "prefill_end": 3.5, "sync_end": 4.0, "fan_out_end": 6.0},
    ]
    ranks = [rank_facts(rank, of_rank) for rank, of_rank in enumerate(moments)]
    answers = [{"token_ids": [1, 2, 3]}, {"token_ids": [4]}]
    told = summarize_fan_out(ranks, {"answers": answers, "shared_tokens": 30}, {"temperature": 0.0}, total_s=9.0)
    expected = {"load_s": 1.0, "prefill_s": 1.5, "sync_exposed_s": 0.5, "fan_out_s": 4.0, "total_s": 9.0}
    assert told["timings"] == expected
    assert (told["new_tokens"], told["prefill_tokens_per_s"], told["fan_out_tokens_per_s"]) == (4, 20.0, 1.0)
    assert told["tokens_per_s"] == 4 / 6.0
    json.dumps(told)
    console = Console(file=io.StringIO(), width=80)
    print_fan_out(told, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 answers, 4 new tokens, 1.0 tokens/s" in text and "30 shared tokens" in text


def guided_rank(rank: int, moments: dict[str, float], *names: str) -> dict[str, Any]:
    numbers = {"prompt_tokens": 9, "chunks": [9], "prefill_s": 1.0 + rank, "sync_exposed_s": 0.1 * rank}
    return rank_facts(rank, moments, sequences=[{"sequence": name} | numbers for name in names])


def test_a_guidance_pair_is_timed_by_the_conditional_half() -> None:
    """Each sequence by the last rank that has it."""
    slow = {name: 10 * value for name, value in MOMENTS[1].items()}
    names = ("conditional", "conditional", "unconditional")
    ranks = [guided_rank(*of_rank) for of_rank in zip(range(3), [*MOMENTS, slow], names, strict=True)]
    pair = sequences_of(ranks)
    assert [(one["sequence"], one["ranks"], one["prefill_s"]) for one in pair] == [
        ("conditional", [0, 1], 2.0),
        ("unconditional", [2], 3.0),
    ]
    summary = summarize(ranks, ANSWER | {"guidance": pair}, {"guidance_scale": 1.5}, total_s=6.0)
    assert summary["timings"] == make()["timings"]
    assert summary["world_size"] == 3
    text = table_text(summary)
    assert "guidance scale 1.5" in text and "unconditional" in text


def test_one_rank_has_both_sequences() -> None:
    pair = sequences_of([guided_rank(0, MOMENTS[0], "conditional", "unconditional")])
    assert [(one["sequence"], one["ranks"]) for one in pair] == [("conditional", [0]), ("unconditional", [0])]
