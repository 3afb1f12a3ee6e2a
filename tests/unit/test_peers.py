"""The comparison with other engines: which variant counts, the ratios, and the reasons for what is missing."""

import pytest

from benchmarks.peers.environment import names, reason_in
from benchmarks.peers.lines import Entry, summary_of, survivors


def entry(peer: str, variant: str, *rounds: float, reason: str = "", weights: str = "bfloat16") -> Entry:
    made = Entry(peer, weights, variant, {}, reason=reason)
    for speed in rounds:
        made.add({"version": "1", "prefill_tokens_per_s": [speed], "decode_tokens_per_s": [speed / 10]})
    return made


def test_every_peer_is_found_by_its_file() -> None:
    assert names() == ["llama_cpp", "openvino", "transformers", "vllm"]


def test_the_best_variants_are_compared_round_by_round() -> None:
    ours = [entry("mpi-spp", "2x1", 30, 20, 60), entry("mpi-spp", "1x2", 10, 10, 10)]
    ours_row, row = summary_of([*ours, entry("other", "a", 10, 20, 20), entry("other", "b", 11)], "mpi-spp")
    assert (ours_row["prefill"]["variant"], ours_row["prefill"]["ratio"]) == ("2x1", None)
    assert row["prefill"]["variant"] == "a"
    assert row["prefill"]["ratios"] == [3, 1, 3]
    assert row["decode"]["ratio"] == pytest.approx(3)


def test_weights_are_compared_with_ours_of_as_many_bits() -> None:
    ours = [entry("mpi-spp", "2x1", 30), entry("mpi-spp", "2x1", 80, weights="int4")]
    theirs = [entry("other", "a", 10), entry("other", "a", 20, weights="q4_1"), entry("other", "a", 5, weights="int8")]
    rows = summary_of([*ours, *theirs], "mpi-spp")
    assert [row["prefill"]["ratio"] for row in rows] == [None, None, 3, 4, None]


def test_slow_and_unavailable_variants_take_no_further_turns() -> None:
    kept = [entry("other", "fast", 10), entry("other", "near", 9), entry("third", "alone", 1)]
    assert survivors([*kept, entry("other", "slow", 5), entry("other", "none", reason="no")]) == kept


def test_a_peer_that_is_not_available_has_a_row_with_the_reason() -> None:
    _, row = summary_of([entry("mpi-spp", "2x1", 1), entry("other", "a", reason="no wheel")], "mpi-spp")
    assert row["reason"] == "no wheel"


def test_the_reason_is_the_first_error_line() -> None:
    assert (
        reason_in("Traceback\n(Worker pid=1) ValueError: 9 heads\nRuntimeError: see above\nbye\n", 1)
        == "ValueError: 9 heads"
    )
    pydantic = "ValidationError: 1 validation error for Config\n  Value error, 9 heads\n    For further information\n"
    assert reason_in(pydantic, 1) == "Value error, 9 heads"
    assert reason_in("killed\n", 9) == "killed"
    assert reason_in("", 9) == "status 9"
    assert reason_in("WARNING: error: none\n", -11) == "ended by SIGSEGV"
