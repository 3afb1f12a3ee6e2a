"""Guided scores are those of transformers; and who works on which sequence."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import score_table
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

from mpi_spp.config import RunConfig
from mpi_spp.engine.teams import teams_of
from mpi_spp.errors import UserError
from mpi_spp.strategies.sampling.guided import GuidedHead

SCALES = (1.5, 7.0, 0.0, -1.0, 0.5)
TABLE = 5 * torch.randn(2, 40, generator=torch.Generator().manual_seed(3))
PAIR = score_table.hidden_of(TABLE)[None]  # the first row is the conditional one


def head_of(scale: float, dtype: torch.dtype) -> GuidedHead:
    return GuidedHead(cast(Any, score_table.ScoreTable(TABLE, dtype, range(TABLE.shape[1]))), scale)


@pytest.mark.parametrize("scale", SCALES)
def test_the_distribution_is_that_of_transformers(scale: float) -> None:
    def model(*given: Any, **settings: Any) -> Any:
        return SimpleNamespace(logits=TABLE[1].reshape(1, 1, -1), get=lambda name, other: None)

    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model)
    expected = processor(torch.zeros(1, 1, dtype=torch.int64), TABLE[:1])
    torch.testing.assert_close(head_of(scale, torch.float32).logits(PAIR).softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_rounding_is_bounded_and_exact_scores_have_none(scale: float, dtype: torch.dtype) -> None:
    head = head_of(scale, dtype)
    scores, exact = head.logits(PAIR), head.exact_logits(PAIR, torch.arange(TABLE.shape[1]))
    assert scores.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(exact, TABLE[1] + scale * (TABLE[0] - TABLE[1]))
    error = (scores[0] - exact).abs().max().item()
    assert error <= head.rounding(scores) / 2 + 1e-5
    assert (head.rounding(scores) == 0) == (dtype == torch.float32)


@given(st.integers(1, 40))
def test_all_ranks_are_in_one_half(num_ranks: int) -> None:
    teams = teams_of(RunConfig(model="m", guidance_scale=2.0), num_ranks)
    assert [rank for team in teams for rank in team.ranks] == list(range(num_ranks))
    assert len(teams) == min(2, num_ranks)
    assert 0 <= len(teams[0].ranks) - len(teams[-1].ranks) <= 1
    assert all(team.mesh.size == len(team.ranks) for team in teams)


def test_replicas_are_teams() -> None:
    teams = teams_of(RunConfig(model="m", mesh="dp=2,pp=3"), 6)
    assert [team.ranks for team in teams] == [range(3), range(3, 6)]
    assert {team.mesh.dp for team in teams} == {2}


def test_a_mesh_is_that_of_one_half() -> None:
    config = RunConfig(model="m", mesh="pp=2,tp=2", guidance_scale=2.0)
    assert [str(team.mesh) for team in teams_of(config, 8)] == ["pp=2,tp=2"] * 2
    for num_ranks in (4, 7):
        with pytest.raises(UserError, match=r"--mesh: .* of a guidance pair, so it needs 8 ranks, but .* start 8"):
            teams_of(config, num_ranks)
