"""Sampling: the token does not depend on how many ranks share the vocabulary, nor on how they share it."""

from pathlib import Path
from typing import Any, cast

import engines
import pytest
import reference_models
import score_table
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.strategies.sampling.sampler import Sampler
from mpi_spp.strategies.sampling.shard import NO_TOKEN, NOT_FINITE
from mpi_spp.strategies.sampling.truncation import FIRST_COUNT

pytestmark = pytest.mark.ranks(2, 3)

SAMPLERS = {
    "temperature": (0.8, 0, 1.0),
    "hot": (3.0, 0, 1.0),
    "top-k": (1.0, 5, 1.0),
    "top-k of nearly all": (1.0, 49151, 1.0),
    "top-p": (1.0, 0, 0.9),
    "top-p of nearly all": (1.0, 0, 0.9999),
    "small top-p": (2.0, 0, 0.01),
    "top-k, then top-p": (1.2, 40, 0.7),
}
in_each_way = pytest.mark.parametrize("way", SAMPLERS)


@pytest.fixture(scope="module")
def ranks() -> Communicator:
    return Communicator(the_world().mpi_comm.Dup(), shares_core=True)


@pytest.fixture(scope="module")
def alone() -> Communicator:
    return Communicator(MPI.COMM_SELF)


def drawn(way: str, comm: Communicator, table: torch.Tensor, dtype: torch.dtype, vocabulary: range) -> list[int]:
    """One token for each row of the table; a row is a step of one of three sequences."""
    stage = cast(Any, score_table.ScoreTable(table, dtype, vocabulary))
    steps = range(len(table))
    sampler = Sampler(*SAMPLERS[way], seed=11)
    chosen = sampler.select(stage, score_table.hidden_of(table), comm, [step % 3 for step in steps], steps)
    assert chosen.dtype == torch.int64
    return chosen.tolist()


def check(
    way: str, ranks: Communicator, alone: Communicator, table: torch.Tensor, dtype: torch.dtype = torch.float32
) -> list[int]:
    """Split evenly, by rank 1 alone (or 0), and held whole by all: as by one rank."""
    whole, nothing = range(table.shape[1]), range(0)
    expected = drawn(way, alone, table, dtype, whole)
    holder = min(1, ranks.size - 1)
    for vocabulary in (
        split_evenly(table.shape[1], ranks.size)[ranks.rank],
        whole if ranks.rank == holder else nothing,
        whole,
    ):
        assert drawn(way, ranks, table, dtype, vocabulary) == expected, vocabulary
    return expected


def random_table(rows: int, size: int, spread: float) -> torch.Tensor:
    return 10 + spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(size))


@in_each_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 4, 5 * FIRST_COUNT])
def test_vocabularies_of_any_size(
    ranks: Communicator, alone: Communicator, way: str, size: int, dtype: torch.dtype
) -> None:
    """Fewer tokens than ranks too."""
    check(way, ranks, alone, random_table(8, size, 2.0), dtype)


@in_each_way
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_a_vocabulary_of_usual_size(ranks: Communicator, alone: Communicator, way: str, spread: float) -> None:
    """Flat distributions too, of which top-p must gather much more than at first; all logits equal in one of them."""
    check(way, ranks, alone, random_table(2, 49152, spread))


few_values = st.sampled_from([0.0, -0.0, 1.0, 2.0, -5.0, float("inf"), float("-inf"), float("nan"), 3e38, -3e38])
few_rows = st.integers(1, 9).flatmap(
    lambda size: st.lists(st.lists(few_values, min_size=size, max_size=size), min_size=1, max_size=3)
)


@settings(max_examples=60)
@given(rows=few_rows, way=st.sampled_from(list(SAMPLERS)))
def test_special_values(ranks: Communicator, alone: Communicator, rows: list[list[float]], way: str) -> None:
    """Ties, and what has no probability and is never drawn; nothing is of a row with a NaN or +inf, or -inf alone."""
    table = torch.tensor(rows)
    for row, token in zip(table, check(way, ranks, alone, table), strict=True):
        if row.isnan().any() or (row == torch.inf).any():
            assert token == NOT_FINITE
        else:
            assert token == NO_TOKEN if (row == -torch.inf).all() else row[token] > -torch.inf


@pytest.mark.parametrize("way, left", [("top-k", {0, 1, 2, 3, 4}), ("top-k, then top-p", set(range(28)))])
def test_ties_at_the_boundary_go_to_the_lowest_ids(
    ranks: Communicator, alone: Communicator, way: str, left: set[int]
) -> None:
    assert set(check(way, ranks, alone, torch.zeros(400, 131))) == left


@settings(max_examples=40)
@given(data=st.data(), way=st.sampled_from(list(SAMPLERS)), spread=st.sampled_from([0.0, 0.3, 3.0]))
def test_any_split(ranks: Communicator, alone: Communicator, data: st.DataObject, way: str, spread: float) -> None:
    """Slices of any lengths, some of them empty."""
    size = data.draw(st.integers(1, 3 * FIRST_COUNT))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), min_size=ranks.size - 1, max_size=ranks.size - 1)))
    vocabulary = range([0, *cuts][ranks.rank], [*cuts, size][ranks.rank])
    table = random_table(4, size, spread)
    expected = drawn(way, alone, table, torch.float32, range(size))
    assert drawn(way, ranks, table, torch.float32, vocabulary) == expected


@pytest.fixture(scope="module")
def directory() -> Path:
    return the_world().on_rank_0(reference_models.build_reference_models) / "qwen3_bfloat16_shards"


BACKENDS = engines.of_all_kinds(torch.bfloat16)


@pytest.mark.parametrize("way", ["temperature", "top-k, then top-p", "top-p"])
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_bfloat16_model_draws_as_on_one_rank(
    ranks: Communicator, alone: Communicator, directory: Path, backend: Plain, way: str
) -> None:
    """The rounding of products is in play too, so that logits of other slices may be rounded otherwise."""
    config, checkpoint = engines.config_here(directory), Checkpoint(directory)
    hidden = torch.randn(100, config.hidden_size, generator=torch.Generator().manual_seed(1))
    sampler, tokens = Sampler(*SAMPLERS[way], seed=11), []
    for comm in (ranks, alone):
        vocabulary = split_evenly(config.vocab_size, comm.size)[comm.rank]
        settings = ({}, vocabulary, torch.bfloat16, torch.device("cpu"), backend)
        stage = load_stage(checkpoint, config, *settings)
        tokens.append(sampler.select(stage, hidden, comm, [0] * len(hidden), range(len(hidden))))
    different = (tokens[0] != tokens[1]).nonzero()[:, 0].tolist()
    assert different == [], f"{len(different)} of {len(hidden)} tokens differ"
