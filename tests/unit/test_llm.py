"""SamplingParams refuse what cannot be, and name it as Python does."""

import subprocess
import sys
from typing import Any

import pytest

import mpi_spp
from mpi_spp import SamplingParams, UserError


@pytest.mark.parametrize(
    "given, says",
    [
        ({"max_tokens": 0}, "max_tokens: 0 is no number of tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "seed": -1}, "seed"),
        ({"top_k": 5}, "^top_k: no meaning without sampling; give temperature above 0 too"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": True}, "presence_penalty: True is of type bool"),
        ({"temperature": 1.0, "seed": "a"}, "seed: 'a' is of type str"),
        ({"ignore_eos": "yes"}, "ignore_eos: 'yes' is of type str"),
        ({"max_tokens": 2.0}, "max_tokens: 2.0 is of type float"),
    ],
)
def test_bad_parameters(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SamplingParams(**given)


def test_the_package_loads_no_torch_until_it_is_asked_for_more() -> None:
    program = (
        "import sys, mpi_spp; assert 'torch' not in sys.modules; mpi_spp.UserError; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_all_that_is_promised_is_there() -> None:
    assert all(getattr(mpi_spp, name) is not None for name in mpi_spp.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'LMM'"):
        mpi_spp.LMM  # noqa: B018
