"""`mpi-spp simulate` as a user starts it: without an mpirun and without weights."""

import json
from pathlib import Path

from console import Ranks


def test_a_simulation_needs_a_config_and_nothing_else(tmp_path: Path, alone: Ranks) -> None:
    from transformers import Qwen3Config

    Qwen3Config(num_hidden_layers=4, max_position_embeddings=4096, dtype="bfloat16").save_pretrained(tmp_path)
    shape = ("--model", str(tmp_path), "--dtype", "float32")  # for which no kernels are compiled
    words = ["simulate", *shape, "--ranks", "1,2,8", "--link", "10gbe", "--json", "-"]
    ended = alone.run(*words, variables={"MPI_SPP_CACHE": str(tmp_path / "cache")})
    assert ended.status == 0, ended.stderr
    data = json.loads(ended.stdout)
    assert [row["ranks"] for row in data["rows"]] == [1, 2, 8]
    assert all(row["seconds"]["request"] > 0 for row in data["rows"])
    assert not ended.error_lines


def test_bad_input_is_one_line(tmp_path: Path, alone: Ranks) -> None:
    ended = alone.run("simulate", "--model", str(tmp_path), "--ranks", "2")
    assert ended.status == 2
    assert len(ended.error_lines) == 1 and "config.json" in ended.error_lines[0]
