"""Matrices of which a day runs a part that has every value."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def every_other(*axes: Sequence[Any]) -> list[Any]:
    """All combinations for `parametrize`, as on a chessboard: those on the other colour are for --full alone."""
    found = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        marks = [pytest.mark.full] if sum(places) % 2 else []
        found.append(pytest.param(*(axis[place] for axis, place in zip(axes, places, strict=True)), marks=marks))
    return found
