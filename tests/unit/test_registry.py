"""A strategy is a file: it is found by its name, without any other edit."""

from pathlib import Path

import pytest

from mpi_spp.errors import UserError
from mpi_spp.parallel import registry
from mpi_spp.strategies import sync


def test_the_strategies_that_the_documents_name() -> None:
    assert {"pairwise", "ring"} <= set(registry.choices("sync"))
    assert "pipeline" in registry.choices("prefill")
    assert "replicated" in registry.choices("decode")


@pytest.mark.parametrize("verb", registry.VERBS)
def test_every_choice_loads_and_has_what_the_engine_calls(verb: str) -> None:
    entry = {"prefill": ("prefill", "place"), "sync": ("exchange", "joins", "MOVES"), "decode": ("decode", "place")}[
        verb
    ]
    for name in registry.choices(verb):
        module = registry.load(verb, name)
        assert all(hasattr(module, part) for part in entry), f"{verb}/{name}.py lacks one of {entry}"


def test_a_file_with_an_underscore_is_no_strategy() -> None:
    assert "_job" not in registry.choices("prefill")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'gossip'.*pairwise.*ring"):
        registry.load("sync", "gossip")


def test_a_name_is_never_a_path() -> None:
    with pytest.raises(UserError):
        registry.load("prefill", "_job")
    with pytest.raises(UserError):
        registry.load("sync", "..errors")


def test_a_new_file_is_a_new_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gossip.py").write_text("MOVES = 'anything'\n")
    monkeypatch.setattr(sync, "__path__", [*sync.__path__, str(tmp_path)])
    assert "gossip" in registry.choices("sync")
    assert registry.load("sync", "gossip").MOVES == "anything"
