"""Penalties on slices of the vocabulary are those of transformers and vLLM on the whole of it."""

from typing import Any, cast

import pytest
import score_table
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.request import Penalties
from mpi_spp.strategies.sampling.greedy import Greedy
from mpi_spp.strategies.sampling.guided import Guided
from mpi_spp.strategies.sampling.penalties import Seen
from mpi_spp.strategies.sampling.sampler import Sampler

VOCAB_SIZE, PROMPT, ANSWER = 50, [3, 3, 41, 7, 0], [7, 49, 49, 12]
SCORES = 3 * torch.randn(40, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


def seen_by(penalties: Penalties, vocabulary: range) -> Seen:
    seen = Seen(penalties, PROMPT, vocabulary)
    for token in ANSWER:
        seen.add(token)
    return seen


@pytest.mark.parametrize("penalty", [1.1, 0.7, 1.0, 5.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    """Bit for bit, in any split, and for some places of a slice as for the whole."""
    ids = torch.tensor([PROMPT + ANSWER]).repeat(len(SCORES), 1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(cast(Any, ids), cast(Any, SCORES.clone()))
    for size in (1, 2, 3, 60):
        slices = [part for part in split_evenly(VOCAB_SIZE, size) if part]
        adjusts = [seen_by(Penalties(penalty), part) for part in slices]
        for row, scores in enumerate(SCORES):
            parts = [adjust(scores[part.start : part.stop]) for adjust, part in zip(adjusts, slices, strict=True)]
            assert torch.equal(torch.cat(parts), expected[row])
    places = torch.tensor([49, 3, 12, 20])
    assert torch.equal(seen_by(Penalties(penalty), range(VOCAB_SIZE))(SCORES[0, places], places), expected[0, places])


def test_the_other_penalties_count_the_answer_alone() -> None:
    expected = SCORES[0].clone()
    for token in set(ANSWER):
        expected[token] -= 0.5 * ANSWER.count(token) + 0.25
    found = seen_by(Penalties(presence_penalty=0.25, frequency_penalty=0.5), range(VOCAB_SIZE))(SCORES[0])
    assert torch.allclose(found, expected)


def selected(selection: Any, table: torch.Tensor, dtype: torch.dtype, adjusts: Any, rows: Any = None) -> list[int]:
    head = cast(Any, score_table.ScoreTable(table, dtype, range(VOCAB_SIZE)))
    hidden = score_table.hidden_of(table) if rows is None else rows
    return selection.select(
        head, hidden, Communicator(the_world().mpi_comm), [0] * len(hidden), range(len(hidden)), adjusts
    ).tolist()


@pytest.mark.parametrize("selection", [Greedy(), Sampler(0.9, 0, 1.0, 3), Sampler(0.9, 5, 0.9, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_selected_from_their_penalised_scores(selection: Any, dtype: torch.dtype) -> None:
    """Some rows are, others are not; of scores in 16 bits the exact ones decide."""
    seen = seen_by(Penalties(1.5, 0.3, 0.2), range(VOCAB_SIZE))
    adjusts = [seen if row % 2 else None for row in range(len(SCORES))]
    changed = torch.stack([scores if one is None else one(scores) for scores, one in zip(SCORES, adjusts, strict=True)])
    tokens = selected(selection, SCORES, dtype, adjusts)
    assert tokens != selected(selection, SCORES, dtype, ())
    if dtype == torch.float32 or isinstance(selection, Greedy):
        assert tokens == selected(selection, changed, torch.float32, ())


def test_with_guidance_log_probabilities_are_penalised() -> None:
    """As in transformers: whether a score is above 0 decides how it is penalised."""
    adjusts = [seen_by(Penalties(1.5), range(VOCAB_SIZE))] * 20
    conditional, unconditional = SCORES.log_softmax(-1).split(20)
    scores = unconditional + 2.5 * (conditional - unconditional)
    expected = torch.stack([adjusts[0](row) for row in scores]).argmax(-1).tolist()
    rows = score_table.hidden_of(SCORES)
    assert selected(Guided(Greedy(), 2.5), SCORES, torch.float32, adjusts * 2, rows) == expected * 2
