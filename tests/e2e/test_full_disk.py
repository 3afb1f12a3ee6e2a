"""A disk that is full when rank 0 writes what came of a run: one line, status 2, all ranks gone, what was done is kept."""

import json
from pathlib import Path

import pytest
import reciting_model
from console import Console, Ranks
from full_disk import MOST_FILE_BYTES
from reciting_model import TEXT

LIMIT = 4500  # bytes; the trial before the work writes 4096
FIXED = ("--dtype", "float32", "--device", "cpu", "--threads", "1", "--kernels", "plain", "--layer-split", "even")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, console: Ranks) -> Path:
    """Where the ranks have been: MPI makes large files of its own when it starts."""
    directory = reciting_model.build(tmp_path_factory.mktemp("models") / "reciting")
    assert console.run("generate", "--prompt", "hi", "--model", str(directory), *FIXED).status == 0
    return directory


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the commands read."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n' * 40)
    (tmp_path / "document").write_text("a")
    (tmp_path / "questions").write_text("b\nc\n" * 10)
    return tmp_path


COMMANDS = {
    "generate --json": ("generate", "--prompt", "hi", "--json", "OUT"),
    "generate --trace": ("generate", "--prompt", "hi", "--trace", "OUT"),
    "ask": ("ask", "--document", "document", "--questions", "questions", "--json", "OUT"),
    "batch --output": ("batch", "--mesh", "dp=3", "--input", "in.jsonl", "--output", "OUT"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_all_ranks_end_in_one_line(name: str, model: Path, files: Path, console: Ranks) -> None:
    """Only the first rank's disk is full, and only behind the work."""
    if not isinstance(console, Console):
        pytest.skip("needs ranks whose files have a limit once MPI has its own")
    words = [str(files / "out") if word == "OUT" else word for word in COMMANDS[name]]
    words += ["--model", str(model), *FIXED]
    ended = console.run_different([words] * 3, files, [{MOST_FILE_BYTES: str(LIMIT)}, {}, {}], 20)
    lines = [line for line in ended.error_lines if line.startswith("mpi-spp: error: ")]
    option = next(word for word, value in zip(words, words[1:], strict=False) if value == str(files / "out"))
    assert ended.status == 2 and len(lines) == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert lines[0].startswith(f"mpi-spp: error: {option}: {files / 'out'} cannot be written (File too large)")
    if words[0] == "generate":
        assert ended.stdout == TEXT + "\n"
    if name == "batch --output":
        kept = (files / "out").read_text().splitlines()
        assert 0 < len(kept) < 40 and all(json.loads(line)["text"] == TEXT for line in kept)
        assert f"{len(kept)} lines there" in lines[0]
    else:
        assert not (files / "out").exists()
