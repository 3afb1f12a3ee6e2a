"""Where `--model` is found, without a network."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from mpi_spp.errors import UserError
from mpi_spp.model.loading.hub import store_path
from mpi_spp.model.loading.index import INDEX, SINGLE
from mpi_spp.model.loading.locate import locate


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI_SPP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert locate(str(tmp_path / "model"), download=False) == tmp_path / "model"
    assert locate("model", download=False) == Path("model")


def test_the_home_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert locate("~/model", download=False) == tmp_path / "model"


def test_a_model_of_the_store() -> None:
    directory = store_path("tiny")
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text("")
    assert locate("tiny", download=False) == directory


@pytest.mark.parametrize(
    "model", ["nothing", "./nothing", "/no/such/directory", "", "a/b/c", "no space/x", "~no-such-user/x"]
)
def test_what_is_nowhere(model: str) -> None:
    with pytest.raises(UserError, match="--model"):
        locate(model, download=True)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(UserError, match=r"model\.gguf is a file"):
        locate(str(tmp_path / "model.gguf"), download=True)


SHARDS = ["model-00001-of-00002.safetensors", "odd[1].safetensors"]
OTHERS = [
    "consolidated.safetensors",
    "original/model.safetensors",
    "original/params.json",
    "adapter_model.safetensors",
    "model.fp16.safetensors",
    "odd1.safetensors",
    "pytorch_model.bin",
    "modeling.py",
]
TEXTS = ["config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt"]


class Hub:
    """A repository of these files, and what its client was asked for."""

    def __init__(self, files: list[str], snapshot: Path) -> None:
        self._files, self._snapshot = files, snapshot
        self.calls: list[dict[str, Any]] = []
        self.fetched: set[str] = set()

    def download(self, name: str, **options: Any) -> str:
        self.calls.append(options | {"name": name})
        kinds = {kind: options.get(kind) for kind in ("allow_patterns", "ignore_patterns")}
        self._snapshot.mkdir(exist_ok=True)
        for file in filter_repo_objects(self._files, **kinds):
            self.fetched.add(file)
            content = {"weight_map": dict(enumerate(SHARDS))} if file == INDEX else {}
            (self._snapshot / file).write_text(json.dumps(content))
        return str(self._snapshot)


@pytest.mark.parametrize("weights", [[SINGLE], [INDEX, *SHARDS], [SINGLE, INDEX, *SHARDS]])
def test_from_the_hub_comes_only_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: list[str]
) -> None:
    hub = Hub([*weights, *OTHERS, *TEXTS], tmp_path / "commit")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    assert locate("someone/model", download=True) == tmp_path / "commit"
    expected = {SINGLE} if SINGLE in weights else set(SHARDS)
    assert {file for file in hub.fetched if file.endswith(".safetensors")} == expected
    assert hub.fetched - expected - {INDEX} == set(TEXTS)
    assert {call.get("revision", "commit") for call in hub.calls} == {"commit"}  # not of another one meanwhile


@pytest.mark.parametrize("download", [True, False])
def test_a_hub_name_is_given_to_the_hubs_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    hub = Hub([SINGLE], tmp_path / "commit")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    assert locate("someone/model", download) == tmp_path / "commit"
    assert [(call["name"], call["local_files_only"]) for call in hub.calls] == [("someone/model", not download)]


@pytest.mark.parametrize("length", [300, 5000, 100_000])
def test_a_name_of_any_length(length: int) -> None:
    for name in ("x" * length, f"{'y' * length}/{'x' * length}"):
        with pytest.raises(UserError, match="--model"):
            locate(name, download=False)


def test_what_the_hubs_client_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: object) -> str:
        raise ConnectionError("no way\nto get there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"someone/model .*no way") as caught:
        locate("someone/model", download=True)
    assert "\n" not in str(caught.value)
