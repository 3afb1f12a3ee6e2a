"""`mpi-spp generate` as a user runs it: text as it comes, measurements, logs, prompts of every kind."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import reciting_model
from console import Ranks
from mpirun import Ended, end, finish, mpi_spp, mpirun, read_some, run, start
from reciting_model import TEXT

from mpi_spp.kernels.native import library

NUM_LAYERS, POSITIONS = 5, 4096
CHAT_TOKENS = len("<user\nhi<\n<assistant\n")  # a token for each byte and each special word


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "reciting"
    return reciting_model.build(directory, num_hidden_layers=NUM_LAYERS, max_position_embeddings=POSITIONS)


def generate(model: Path, *arguments: str) -> list[str]:
    return ["generate", "--model", str(model), *arguments]


def answered(ended: Ended) -> Ended:
    assert ended.status == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def everything(
    model: Path, tmp_path_factory: pytest.TempPathFactory, console: Ranks
) -> tuple[Ended, dict[str, Any], Path]:
    """A run that is asked for all that it can tell: its end, its JSON, its directory."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "question.txt").write_text("hi", encoding="utf-8")
    arguments = ["--prompt-file", "question.txt", "--json", "out.json", "--log-dir", "logs", "--chunk-size", "8"]
    words = generate(model, *arguments, "--sync-strategy", "ring", "--sync-granularity", "layer")
    ended = answered(console.run(*words, cwd=directory))
    return ended, json.loads((directory / "out.json").read_text()), directory


@pytest.mark.skipif(not library.runnable(), reason="needs native kernels")
def test_8_bit_activations_are_told_and_give_the_same_tokens_in_any_chunks(model: Path, console: Ranks) -> None:
    words = generate(model, "--prompt", "hi", "--dtype", "bfloat16", "--quantize", "int4", "--activations", "int8")
    told = []
    for chunk_size in ("1", "128"):
        ended = answered(console.run(*words, "--max-new-tokens", "9", "--chunk-size", chunk_size, "--json", "-"))
        told.append(json.loads(ended.stdout))
        assert {rank["activations"] for rank in told[-1]["ranks"]} == {"int8"}
        assert told[-1]["configuration"]["activations"] == "int8"
        assert " with int8 activations: " in " ".join(ended.stderr.split())
    assert told[0]["token_ids"] == told[1]["token_ids"]


def test_the_answer_alone_is_on_standard_output(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    ended, _, _ = everything
    assert ended.stdout == TEXT + "\n"


def test_the_moments_and_the_ranks_are_on_standard_error(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    ended, _, _ = everything
    for shown in ("3 ranks", "prefill start", "prefill end", "sync end", "exposed sync", "decode start", "decode end"):
        assert shown in ended.stderr, shown
    assert ended.stderr.count("exposed sync") == 1  # from one rank


def test_json_tells_the_answer(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    _, told, _ = everything
    assert told["text"] == TEXT
    assert len(told["token_ids"]) == len(TEXT.encode()) + 1  # and the stop token
    assert told["finish_reason"] == "stop"
    assert told["prompt_tokens"] == CHAT_TOKENS
    assert told["world_size"] == 3


def test_json_tells_the_timings(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    ended, told, _ = everything
    timings = told["timings"]
    assert all(timings[name] > 0 for name in ("load_s", "prefill_s", "sync_exposed_s", "decode_s", "total_s"))
    # By rank 0's clock; the prefill's time is by the last rank's, which may leave the barrier before it earlier.
    assert timings["load_s"] + timings["first_token_s"] == pytest.approx(timings["start_to_first_token_s"])
    assert timings["start_to_first_token_s"] + timings["decode_s"] < timings["total_s"] < ended.seconds
    assert timings["prefill_s"] + timings["sync_exposed_s"] < ended.seconds
    assert told["prefill_tokens_per_s"] == pytest.approx(CHAT_TOKENS / timings["prefill_s"])
    assert told["decode_tokens_per_s"] == pytest.approx(len(TEXT.encode()) / timings["decode_s"])


def test_json_tells_what_was_chosen(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    _, told, _ = everything
    chosen = told["configuration"]
    assert (chosen["sync_strategy"], chosen["sync_granularity"], chosen["chunk_size"]) == ("ring", "layer", 8)
    assert (chosen["prompt_file"], chosen["max_new_tokens"]) == ("question.txt", 100)
    assert told["chunks"] == [8] * (CHAT_TOKENS // 8) + [CHAT_TOKENS % 8] * (CHAT_TOKENS % 8 > 0)


def test_json_tells_of_every_rank(everything: tuple[Ended, dict[str, Any], Path], model: Path) -> None:
    _, told, _ = everything
    ranks, config = told["ranks"], json.loads((model / "config.json").read_text())
    assert [rank["rank"] for rank in ranks] == [0, 1, 2]
    assert [rank["prefill_layers"] for rank in ranks] == [[0, 2], [2, 4], [4, 5]]
    assert [rank["vocabulary"][0] for rank in ranks[1:]] == [rank["vocabulary"][1] for rank in ranks[:-1]]
    assert (ranks[0]["vocabulary"][0], ranks[-1]["vocabulary"][1]) == (0, config["vocab_size"])
    for rank in ranks:
        assert rank["peak_memory_bytes"] > 10_000_000 and rank["threads"] >= 1 and rank["affinity"] and rank["host"]
    per_position = 2 * config["num_key_value_heads"] * config["head_dim"] * 4
    layers = [len(range(*rank["prefill_layers"])) for rank in ranks]
    assert [rank["kv_bytes_sent"] for rank in ranks] == ring_bytes(layers, CHAT_TOKENS * per_position)
    assert told["bytes_sent"] == [rank["bytes_sent"] for rank in ranks]


def ring_bytes(layers: list[int], bytes_per_layer: int) -> list[int]:
    """A rank passes on all parts but the next rank's."""
    return [(sum(layers) - layers[(rank + 1) % len(layers)]) * bytes_per_layer for rank in range(len(layers))]


def test_every_rank_writes_a_log(everything: tuple[Ended, dict[str, Any], Path]) -> None:
    _, _, directory = everything
    assert sorted(path.name for path in (directory / "logs").iterdir()) == ["rank0.log", "rank1.log", "rank2.log"]
    for rank in range(3):
        log = (directory / "logs" / f"rank{rank}.log").read_text()
        assert f"rank {rank} of 3" in log
        assert "prefill_end at" in log and "sync_end at" in log


def test_text_streams_as_it_is_made(model: Path) -> None:
    """Whole characters, long before the end; after the stop token too when it is ignored."""
    pieces, moments = [], []
    words = generate(model, "--prompt", "hi", "--ignore-eos", "--max-new-tokens", "1000")
    process = start(mpirun(3, mpi_spp(*words)))
    try:
        while piece := read_some(process):
            pieces.append(piece)
            moments.append(time.monotonic())
        assert answered(finish(process, moments[0])).seconds > 0.3  # seconds after the first piece
    finally:
        end(process)
    whole_rounds, left = divmod(1000, len(TEXT.encode()) + 1)
    expected = TEXT * whole_rounds + TEXT.encode()[:left].decode(errors="ignore")
    assert b"".join(pieces).decode().rstrip("\ufffd\n") == expected
    assert len(pieces) > 20
    assert moments[len(moments) // 2] - moments[0] > 0.1


def test_json_on_standard_output_is_alone_there(model: Path, console: Ranks) -> None:
    """With the shortest prompt and answer."""
    command = generate(model, "--prompt", "x", "--no-chat", "--max-new-tokens", "1", "--json", "-")
    told = json.loads(answered(console.run(*command)).stdout)
    assert (told["prompt_tokens"], len(told["token_ids"]), told["text"]) == (1, 1, TEXT[0])
    assert (told["finish_reason"], told["decode_tokens_per_s"], told["timings"]["decode_s"]) == ("length", None, 0.0)


def test_a_model_without_a_tokenizer_answers_in_ids(tmp_path: Path, console: Ranks) -> None:
    model = reciting_model.build(tmp_path / "model", "abc")
    ids = reciting_model.make_tokenizer()("zabc<|im_end|>")["input_ids"]
    for path in model.glob("*token*"):
        path.unlink()
    (tmp_path / "ids.json").write_text(json.dumps(ids[:1]))
    command = generate(model, "--prompt-ids", str(tmp_path / "ids.json"), "--json", str(tmp_path / "out.json"))
    ended = answered(console.run(*command))
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["token_ids"], told["text"], told["finish_reason"]) == (ids[1:], None, "stop")
    assert ended.stdout.split() == list(map(str, ids[1:]))


def test_an_answer_ends_at_the_models_last_position(tmp_path: Path, console: Ranks) -> None:
    model = reciting_model.build(tmp_path / "model", max_position_embeddings=64)
    arguments = ["--prompt", "x" * 60, "--no-chat", "--ignore-eos", "--json", "-", "--chunk-size", "7"]
    told = json.loads(answered(console.run(*generate(model, *arguments))).stdout)
    assert (told["prompt_tokens"], len(told["token_ids"]), told["finish_reason"]) == (60, 4, "length")
    assert told["text"] == TEXT[:4]


def test_one_process_needs_no_mpirun(model: Path) -> None:
    """And a terminal that cannot show a character shows another one."""
    arguments = ["--prompt", "hi", "--system", "Be brief.", "--chat", "--threads", "1"]
    ended = answered(run(mpi_spp(*generate(model, *arguments)), variables={"PYTHONIOENCODING": "ascii"}))
    assert ended.stdout == TEXT.encode("ascii", "replace").decode() + "\n"
    assert f"{CHAT_TOKENS + len('<system Be brief.< ')} prompt tokens" in ended.stderr
