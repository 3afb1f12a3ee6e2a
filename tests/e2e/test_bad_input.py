"""Bad input on real ranks: one line from one rank, status 2, and all ranks end.

A few cases are starts of their own, in which the ranks really leave: with `--full` all are.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import reciting_model
from console import Ranks, Starts
from mpirun import Ended, environments, mpi_spp, mpirun, run

NUM_LAYERS, POSITIONS, NUM_RANKS = 5, 64, 3
Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What is done to a good model directory, what is asked, and what the line must say."""

    says: str
    arguments: tuple[str, ...] = ("--prompt", "hi")
    damage: Damage | None = None
    model: str | None = None  # in place of the directory
    starts: bool = False  # ranks of its own


def change_config(**changes: object) -> Damage:
    """Set fields of config.json; None removes one."""

    def damage(model: Path) -> None:
        config = json.loads((model / "config.json").read_text()) | changes
        kept = {name: value for name, value in config.items() if value is not None}
        (model / "config.json").write_text(json.dumps(kept))

    return damage


def rewrite_weights(change: Callable[[bytes], bytes]) -> Damage:
    def damage(model: Path) -> None:
        path = model / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def lose_a_shard(model: Path) -> None:
    """Two shards by the index, one by the directory."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        names = sorted(file.keys())
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    (model / "model.safetensors").rename(model / first)
    shards = dict.fromkeys(names, first) | {names[-1]: second}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def write(name: str, content: bytes) -> Damage:
    """A file beside the model's own."""
    return lambda model: (model / name).write_bytes(content)


def lose_the_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()


CASES = {
    # the model
    "no such model": Case("no/such/model is neither a directory", model="no/such/model"),
    "no such hub model": Case("someone/model is no directory and cannot be had", model="someone/model"),
    "a file as the model": Case("is a file", damage=lambda model: (shutil.rmtree(model), model.write_text("x"))),
    "an empty directory": Case("config.json: no such file", damage=lambda model: (shutil.rmtree(model), model.mkdir())),
    "config without a field": Case("'hidden_size' is missing", damage=change_config(hidden_size=None), starts=True),
    "config that is no JSON": Case("config.json is not JSON", damage=write("config.json", b"{")),
    "unsupported family": Case("model_type 'gpt2' is not supported", damage=change_config(model_type="gpt2")),
    "truncated weights": Case("is corrupt or truncated", damage=rewrite_weights(lambda old: old[:-100]), starts=True),
    "corrupt header": Case(
        "is corrupt or truncated", damage=rewrite_weights(lambda old: old[:8] + b"#" * 80 + old[88:])
    ),
    "missing shard": Case("model-00002-of-00002.safetensors: no such file", damage=lose_a_shard),
    "no tokenizer": Case("has no tokenizer; give token ids with --prompt-ids", damage=lose_the_tokenizer),
    # the prompt
    "no prompt": Case("exactly one of --prompt, --prompt-file and --prompt-ids (found: none)", ()),
    "two prompts": Case("(found: --prompt and --prompt-file)", ("--prompt", "a", "--prompt-file", "b")),
    "empty prompt": Case("--prompt: the prompt is empty", ("--prompt", "")),
    "prompt that is not UTF-8": Case("--prompt: the text is not UTF-8", ("--prompt", "caf\udce9")),
    "prompt file that is not UTF-8": Case(
        "is not UTF-8 (byte 3)", ("--prompt-file", "{model}/text"), damage=write("text", b"caf\xe9")
    ),
    "prompt beyond the positions": Case(f"has {POSITIONS} positions", ("--prompt", "x" * POSITIONS, "--no-chat")),
    "prompt ids that are no JSON": Case("is not JSON", ("--prompt-ids", "{model}/ids"), damage=write("ids", b"[1, 2")),
    "prompt ids out of range": Case(
        "a list of one or more token ids from 0 to", ("--prompt-ids", "{model}/ids"), damage=write("ids", b"[1, 99999]")
    ),
    # the other options
    "chunk size 0": Case("--chunk-size: 0", ("--prompt", "hi", "--chunk-size", "0")),
    "chunk size that is no number": Case("'--chunk-size': 'big'", ("--prompt", "hi", "--chunk-size", "big")),
    "a layer split that is none": Case("'--layer-split': 'odd' is neither", ("--prompt", "hi", "--layer-split", "odd")),
    "a rank without a layer": Case("--layer-split: 3,0,2 leaves", ("--prompt", "hi", "--layer-split", "3,0,2")),
    "layers for other ranks": Case(f"5 is for 1 stage, not {NUM_RANKS}", ("--prompt", "hi", "--layer-split", "5")),
    "layers for another model": Case(
        "--layer-split: 3,3,1 is 7 layers, but {model} has 5", ("--prompt", "hi", "--layer-split", "3,3,1")
    ),
    "a temperature below 0": Case("--temperature: -1.0 is no", ("--prompt", "hi", "--temperature", "-1")),
    "a temperature that is no number": Case("'--temperature': 'hot'", ("--prompt", "hi", "--temperature", "hot")),
    "a temperature without an end": Case("--temperature: inf is no", ("--prompt", "hi", "--temperature", "inf")),
    "top-p of nothing": Case("--top-p: 0.0 is no", ("--prompt", "hi", "--temperature", "1", "--top-p", "0")),
    "top-k below 0": Case("--top-k: -5 is too small", ("--prompt", "hi", "--temperature", "1", "--top-k", "-5")),
    "a seed that is no number": Case("'--seed': '1.5'", ("--prompt", "hi", "--temperature", "1", "--seed", "1.5")),
    "a seed without a temperature": Case("--seed: no meaning without sampling", ("--prompt", "hi", "--seed", "1")),
    "unknown strategy": Case("'--sync-strategy': 'gossip'", ("--prompt", "hi", "--sync-strategy", "gossip")),
    "unknown option": Case("No such option '--fast'", ("--prompt", "hi", "--fast")),
    "a GPU that is not there": Case("--gpu-ids: GPU 99 is not there", ("--prompt", "hi", "--gpu-ids", "99,98,97")),
    "GPU ids that are no numbers": Case("'a,b' is no comma-separated list", ("--prompt", "hi", "--gpu-ids", "a,b")),
    "a log directory below a file": Case("--log-dir:", ("--prompt", "hi", "--log-dir", "{model}/config.json/logs")),
    "a trace in no directory": Case(
        "--trace: no/such/out.json cannot be written",
        ("--prompt", "hi", "--trace", "no/such/out.json"),
        model="no/model",
    ),
    "a JSON file in no directory": Case("--json:", ("--prompt", "hi", "--json", "no/such/out.json")),
    "more ranks than layers": Case(
        "3 stages, but {model} has 1 layer; start 1 rank at most", damage=change_config(num_hidden_layers=1)
    ),
}


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "good"
    return reciting_model.build(directory, num_hidden_layers=NUM_LAYERS, max_position_embeddings=POSITIONS)


@pytest.fixture
def model(good_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_model, tmp_path / "model"))


def check_one_line(ended: Ended, says: str) -> None:
    assert len(ended.error_lines) == 1, ended.stderr
    (line,) = ended.error_lines
    assert line.startswith("mpi-spp: error: ")
    assert says in line
    assert ended.status == 2
    assert ended.stdout == ""


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, model: Path, console: Ranks) -> None:
    case = CASES[name]
    if case.damage is not None:
        case.damage(model)
    arguments = [argument.replace("{model}", str(model)) for argument in case.arguments]
    words = ["generate", "--model", case.model or str(model), *arguments]
    ended = (Starts(NUM_RANKS) if case.starts else console).run(*words)
    check_one_line(ended, case.says.replace("{model}", str(model)))


@pytest.mark.parametrize(
    "says, damage, starts",
    [
        ("on rank 1: {bad}/model-00002-of-00002.safetensors: no such file", lose_a_shard, True),
        ("on rank 1: --model: {bad} is neither a directory", shutil.rmtree, False),
    ],
    ids=["a shard", "the model"],
)
def test_what_only_one_rank_misses(
    good_model: Path, model: Path, says: str, damage: Damage, starts: bool, console: Ranks
) -> None:
    """As on a cluster whose nodes have disks of their own."""
    damage(model)
    good, bad = (("generate", "--model", str(path), "--prompt", "hi") for path in (good_model, model))
    ended = (Starts(NUM_RANKS) if starts else console).run_different([good, bad, good])
    check_one_line(ended, says.replace("{bad}", str(model)))


@pytest.mark.parametrize("words, starts", [("--fast", True), ("frobnicate", False), ("generate", False)])
def test_bad_commands(words: str, starts: bool, console: Ranks) -> None:
    """Also those that fail before any command begins."""
    check_one_line((Starts(NUM_RANKS) if starts else console).run(words), "")


def test_bad_input_with_mpich(model: Path) -> None:
    if "mpich" not in environments():
        pytest.skip("needs an environment with MPICH; bin/test --mpi both makes it")
    launcher, python = environments()["mpich"]
    write("config.json", b"{")(model)
    command = mpi_spp("generate", "--model", str(model), "--prompt", "hi", python=python)
    check_one_line(run(mpirun(NUM_RANKS, command, launcher)), "config.json is not JSON")
