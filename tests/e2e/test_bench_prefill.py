"""`mpi-spp bench prefill`: a case for every combination, and what each rank sends in one request of it."""

import json
from pathlib import Path

import reciting_model
from console import Ranks

TOKENS, LAYERS = 20, (2, 2, 1)


def test_bytes_are_those_of_one_request(tmp_path: Path, console: Ranks) -> None:
    model, out = reciting_model.build(tmp_path / "model", num_hidden_layers=sum(LAYERS)), tmp_path / "out.json"
    lengths = ["--prompt-tokens", str(TOKENS), "--repetitions", "2", "--chunk-size", "8", "--layer-split", "even"]
    compared = ["--sync-strategy", "pairwise", "--sync-strategy", "ring", "--threads", "1"]
    command = ["bench", "prefill", "--model", str(model), *lengths, *compared, "--json", str(out)]
    ended = console.run(*command)
    assert ended.status == 0, ended.stderr
    config = json.loads((model / "config.json").read_text())
    per_layer = 2 * config["num_key_value_heads"] * config["head_dim"] * 4 * TOKENS
    cases = json.loads(out.read_text())["cases"]
    assert [case["name"].split()[1] for case in cases] == ["pairwise", "ring"]
    # Pairwise every rank sends its layers to two others; round the ring, all layers but those of the next rank.
    sent = [[2 * count for count in LAYERS], [sum(LAYERS) - LAYERS[(rank + 1) % 3] for rank in range(3)]]
    for case, layers in zip(cases, sent, strict=True):
        assert case["kv_bytes_sent"] == [count * per_layer for count in layers]
        assert case["bytes_sent"][0] >= case["kv_bytes_sent"][0] + 4 * config["hidden_size"] * TOKENS
