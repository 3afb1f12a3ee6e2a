"""Sampling draws from the distribution that transformers' logits warpers leave, and a seed repeats it."""

import itertools
from typing import Any, cast

import numpy as np
import pytest
import score_table
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.config import RunConfig
from mpi_spp.request import Draws
from mpi_spp.strategies.sampling.greedy import Greedy
from mpi_spp.strategies.sampling.noise import gumbel, random_words, stream_key
from mpi_spp.strategies.sampling.sampler import Sampler
from mpi_spp.strategies.sampling.selection import selection_of, with_seed
from mpi_spp.strategies.sampling.shard import NOT_FINITE
from mpi_spp.strategies.sampling.truncation import FIRST_COUNT

DRAWS = 4000
LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.0, 1.2, -4.0, 1.9, 0.7, -0.2])


def draws(
    alone: Communicator, sampler: Sampler, logits: torch.Tensor, count: int, sequence_index: int = 0
) -> list[int]:
    """The first steps of one sequence."""
    table = logits[None]
    stage = cast(Any, score_table.slice_of(table, torch.float32, 0, 1))
    return sampler.select(stage, torch.zeros(count, 1), alone, [sequence_index] * count, range(count)).tolist()


def warped(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The probabilities of transformers."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(cast(Any, torch.zeros(1, 1, dtype=torch.long)), logits[None].double())[0].softmax(dim=-1)


def chi_squared(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """In standard deviations over what is expected of it, about, for this many degrees of freedom."""
    expected = counts.sum() * probabilities
    degrees = len(counts) - 1
    if not degrees:
        return 0.0
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


CASES = [
    (0.5, 0, 1.0),
    (1.0, 0, 1.0),
    (2.5, 0, 1.0),
    (1.0, 1, 1.0),
    (1.5, 4, 1.0),
    (0.5, 0, 0.8),
    (2.5, 0, 0.8),
    (2.5, 4, 0.8),
]


@pytest.mark.parametrize("temperature, top_k, top_p", CASES)
def test_the_distribution_is_that_of_transformers(
    alone: Communicator, temperature: float, top_k: int, top_p: float
) -> None:
    """Temperature, top-k, top-p and all of them together: the kept set exactly, the frequencies by chi-squared."""
    probabilities = warped(LOGITS, temperature, top_k, top_p).numpy()
    tokens = draws(alone, Sampler(temperature, top_k, top_p, seed=5), LOGITS, DRAWS)
    counts = np.bincount(tokens, minlength=len(LOGITS))
    kept = probabilities > 0
    assert not counts[~kept].any(), "a token was drawn that transformers would leave out"
    frequent = kept & (probabilities * DRAWS > 5)
    assert (counts[frequent] > 0).all()
    assert chi_squared(counts[frequent], probabilities[frequent] / probabilities[frequent].sum()) < 5


@pytest.mark.parametrize("spread, top_p", [(0.02, 0.9), (1.0, 0.99), (4.0, 0.5)])
def test_a_nucleus_larger_than_what_is_gathered_first(alone: Communicator, spread: float, top_p: float) -> None:
    """The kept set is found through its rarest members: a uniform draw from all would miss the boundary by some."""
    logits = spread * torch.randn(20 * FIRST_COUNT, generator=torch.Generator().manual_seed(0))
    probabilities = warped(logits, 1.0, 0, top_p)
    tokens = draws(alone, Sampler(1.0, 0, top_p, seed=5), logits, 1500)
    assert bool((probabilities[tokens] > 0).all())
    kept = int((probabilities > 0).sum())
    expected = kept - float(((1 - probabilities) ** 1500)[probabilities > 0].sum())
    assert len(set(tokens)) == pytest.approx(expected, rel=0.05, abs=3)


def test_draws_are_independent_of_one_another(alone: Communicator) -> None:
    """Pairs of steps, and of neighbouring sequences and seeds, are as frequent as chance has it."""
    first, second = (draws(alone, Sampler(1.0, 0, 1.0, 5), torch.zeros(6), DRAWS, index) for index in (0, 1))
    third = draws(alone, Sampler(1.0, 0, 1.0, 6), torch.zeros(6), DRAWS)
    for one, other in ((first, first[1:]), (first, second), (first, third)):
        pairs = np.bincount([6 * a + b for a, b in zip(one, other, strict=False)], minlength=36)
        assert chi_squared(pairs, np.full(36, 1 / 36)) < 5


def test_a_seed_repeats_the_draws_and_another_does_not(alone: Communicator) -> None:
    flat = torch.zeros(1000)
    first = draws(alone, Sampler(1.0, 0, 1.0, 1), flat, 50)
    assert first == draws(alone, Sampler(1.0, 0, 1.0, 1), flat, 50)
    assert first != draws(alone, Sampler(1.0, 0, 1.0, 2), flat, 50)
    assert first != draws(alone, Sampler(1.0, 0, 1.0, 1), flat, 50, sequence_index=1)
    assert first == draws(alone, Sampler(1.0, 1000, 1.0, 1), flat, 50), "top-k of the whole vocabulary leaves all"


def test_a_row_is_drawn_alike_alone_and_among_others(alone: Communicator) -> None:
    table = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    stage = cast(Any, score_table.slice_of(table, torch.float32, 0, 1))
    hidden, sequences, steps = score_table.hidden_of(table), [7, 0, 3, 7], [5, 5, 0, 6]
    sampler = Sampler(1.3, 0, 0.9, seed=2**64 - 1)
    together = sampler.select(stage, hidden, alone, sequences, steps)
    for row in range(4):
        one = sampler.select(stage, hidden[row : row + 1], alone, sequences[row : row + 1], steps[row : row + 1])
        assert one.tolist() == together[row : row + 1].tolist()


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-6])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_a_temperature_near_0_is_greedy(alone: Communicator, temperature: float, top_p: float) -> None:
    assert set(draws(alone, Sampler(temperature, 0, top_p, 1), LOGITS, 100)) == {1}


@pytest.mark.parametrize("temperature, top_p", [(1e30, 1.0), (1.7e308, 0.999)])
def test_a_huge_temperature_is_uniform(alone: Communicator, temperature: float, top_p: float) -> None:
    counts = np.bincount(draws(alone, Sampler(temperature, 0, top_p, 1), LOGITS, 2000), minlength=len(LOGITS))
    assert chi_squared(counts, np.full(len(LOGITS), 0.1)) < 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_of_a_row_is_the_same_alone_and_among_others(alone: Communicator, dtype: torch.dtype) -> None:
    """Ties, near ones, and rows with other magnitudes beside them; scores of 32 rows are computed at once."""
    torch.manual_seed(3)
    table = torch.randn(70, 200) * torch.logspace(-2, 3, 70)[:, None]
    table[:, 150] = table[:, 7] = table.amax(dim=1) * 1.0001
    table[5, 9], table[6, 9] = float("nan"), 1e30
    calls: list[int] = []

    class Counting(score_table.ScoreTable):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            calls.append(len(hidden))
            return super().logits(hidden)

    head, hidden = Counting(table, dtype, range(200)), score_table.hidden_of(table)
    together = Greedy().select(head, hidden, alone, range(70), [0] * 70)
    assert calls == [32, 32, 6]
    each = [Greedy().select(head, row, alone, [0], [0]) for row in hidden.split(1)]
    assert torch.equal(together, torch.cat(each))
    assert together.tolist() == [NOT_FINITE if row == 5 else 9 if row == 6 else 7 for row in range(70)]


def test_random_words_are_splitmix64s() -> None:
    """Its published outputs for the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_words(1234567, np.arange(4)).tolist() == expected
    assert random_words(1234567, np.array([3, 1])).tolist() == [expected[3], expected[1]]


def test_each_step_has_the_next_word_of_its_sequence_as_a_key() -> None:
    """And each sequence that of its seed: a seed repeats its draws in later versions, too."""
    of_seed = random_words(0, np.array([7]))[0]
    of_sequence = random_words(int(of_seed), np.array([2]))[0]
    assert [stream_key(7, 2, step) for step in range(4)] == random_words(int(of_sequence), np.arange(4)).tolist()


def test_noise_is_gumbels() -> None:
    """Mean 0.5772 and variance pi^2 / 6; every key is another stream."""
    noise = gumbel(stream_key(1, 2, 3), np.arange(1_000_000))
    assert noise.mean() == pytest.approx(0.57722, abs=0.005)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.02)
    keys = {stream_key(*numbers) for numbers in itertools.product(range(5), repeat=3)}
    assert len(keys) == 125


@given(word=st.integers(0, 2**64 - 1))
def test_noise_is_finite(word: int) -> None:
    assert np.isfinite(gumbel(word, np.arange(100))).all()


def test_the_selection_is_chosen_by_the_temperature() -> None:
    assert isinstance(selection_of(Draws()), Greedy)
    assert isinstance(selection_of(Draws(temperature=1.0, seed=0)), Sampler)
    with pytest.raises(ValueError, match="seed"):
        Draws(temperature=1.0)


def test_a_seed_is_drawn_only_when_it_is_needed() -> None:
    greedy, seeded = RunConfig(model="m"), RunConfig(model="m", temperature=1.0, seed=3)
    assert with_seed(greedy, the_world()) is greedy
    assert with_seed(seeded, the_world()) is seeded
    seeds = {with_seed(RunConfig(model="m", temperature=1.0), the_world()).seed for _ in range(5)}
    assert len(seeds) > 1 and None not in seeds
