"""Where `--model` is found, without a network."""

from pathlib import Path

import huggingface_hub
import pytest

from mpi_spp.errors import UserError
from mpi_spp.model.locate import locate
from mpi_spp.model.store import store_path


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


@pytest.mark.parametrize("download", [True, False])
def test_a_hub_name_is_given_to_the_hubs_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    asked: dict[str, object] = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate("someone/model", download) == tmp_path
    assert asked["name"] == "someone/model"
    assert asked["local_files_only"] is not download
    assert not any(str(pattern).endswith((".bin", ".pt", ".py")) for pattern in asked["allow_patterns"])  # type: ignore[attr-defined]


def test_what_the_hubs_client_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: object) -> str:
        raise ConnectionError("no way\nto get there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"someone/model .*no way") as caught:
        locate("someone/model", download=True)
    assert "\n" not in str(caught.value)
