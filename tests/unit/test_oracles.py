"""The kept answers are those that transformers gives."""

import oracles
import pytest
import reference_models
import remake_oracles


@pytest.mark.full
@pytest.mark.parametrize("name", remake_oracles.MAKERS)
def test_transformers_still_gives_what_is_kept(name: str) -> None:
    """Takes long: transformers answers every prompt of every model."""
    reference_models.silence_transformers()
    kept = oracles.read(name)
    assert remake_oracles.MAKERS[name](kept) == kept


def test_nothing_is_kept_that_nobody_makes() -> None:
    assert {path.stem for path in oracles.DIRECTORY.glob("*.json")} == set(remake_oracles.MAKERS)
    assert list(oracles.read("models")) == list(reference_models.RECIPES)
