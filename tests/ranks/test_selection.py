"""Greedy selection: the token does not depend on how many ranks share the vocabulary."""

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
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.strategies.sampling.greedy import select
from mpi_spp.strategies.sampling.shard import NO_TOKEN, NOT_FINITE

pytestmark = pytest.mark.ranks(2, 3)


@pytest.fixture(scope="module")
def ranks() -> Communicator:
    return Communicator(the_world().mpi_comm.Dup(), shares_core=True)


def argmax(table: torch.Tensor) -> list[int]:
    """The reference: the lowest id of the largest value; none in a row with a NaN or +inf, or with -inf alone."""
    return [expected_mark(row) or max(range(len(row)), key=lambda token: (float(row[token]), -token)) for row in table]


def expected_mark(row: torch.Tensor) -> int | None:
    if row.isnan().any() or (row == torch.inf).any():
        return NOT_FINITE
    return NO_TOKEN if (row == -torch.inf).all() else None


def check(ranks: Communicator, table: torch.Tensor, dtype: torch.dtype) -> None:
    stage = score_table.slice_of(table, dtype, ranks.rank, ranks.size)
    chosen = select(cast(Any, stage), score_table.hidden_of(table), ranks)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == argmax(table)


few_values = st.sampled_from([0.0, -0.0, 1.0, 2.0, -5.0, float("inf"), float("-inf"), float("nan"), 3e38, -3e38])
few_rows = st.integers(1, 7).flatmap(
    lambda size: st.lists(st.lists(few_values, min_size=size, max_size=size), min_size=1, max_size=3)
)


@settings(max_examples=60)
@given(rows=few_rows, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_special_values(ranks: Communicator, rows: list[list[float]], dtype: torch.dtype) -> None:
    """Ties, NaNs, infinities, several rows, and fewer tokens than ranks."""
    table = torch.tensor(rows)
    if dtype == torch.bfloat16:
        table = table.to(dtype).float()
    check(ranks, table, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 131, 49152])
def test_vocabularies_of_any_size(ranks: Communicator, size: int, dtype: torch.dtype) -> None:
    """Logits of 16 bits tie often, within a slice and between slices; the exact ones decide."""
    check(ranks, 20 + torch.rand(8, size, generator=torch.Generator().manual_seed(size)), dtype)


@pytest.fixture(scope="module")
def directory() -> Path:
    return the_world().on_rank_0(reference_models.build_reference_models) / "qwen3_bfloat16_shards"


BACKENDS = engines.of_all_kinds(torch.bfloat16)


def head_only(directory: Path, vocabulary: range, backend: Plain) -> Stage:
    """A stage without layers."""
    config, device = engines.config_here(directory), torch.device("cpu")
    return load_stage(Checkpoint(directory), config, {}, vocabulary, torch.bfloat16, device, backend)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_bfloat16_model_selects_as_on_one_rank(ranks: Communicator, directory: Path, backend: Plain) -> None:
    """The rounding of products is in play too, so that the exact order may differ from the rounded one."""
    size = engines.config_here(directory).vocab_size
    hidden = torch.randn(1000, 72, generator=torch.Generator().manual_seed(1))
    together = select(head_only(directory, split_evenly(size, ranks.size)[ranks.rank], backend), hidden, ranks)
    alone = select(head_only(directory, range(size), backend), hidden, Communicator(MPI.COMM_SELF))
    different = (together != alone).nonzero()[:, 0].tolist()
    assert different == [], f"{len(different)} of {len(hidden)} tokens differ"
