"""Rows on their way to experts on other ranks: what comes back is what one rank would compute."""

from pathlib import Path

import engines
import pytest
import reference_models
import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.dispatch import Dispatch, DispatchOfParts
from mpi_spp.comm.world import World
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.batch import one_span
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.partition import split_as, split_evenly
from mpi_spp.parallel.shares import split_layer

pytestmark = pytest.mark.ranks(2, 3)

EXPERTS, TOP_K, WIDTH = 7, 3, 20


def routed(kind: str, rank: int, rows: int) -> torch.Tensor:
    """Experts [rows, TOP_K] of one rank's rows."""
    if kind == "all to one":
        return torch.arange(TOP_K).expand(rows, -1)  # the first rank has these
    return torch.stack([torch.randperm(EXPERTS)[:TOP_K] for _ in range(rows)]) if rows else torch.empty(0, TOP_K).long()


@pytest.mark.parametrize("kind", ["any", "all to one", "nothing from some"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_come_back_as_from_one_rank(kind: str, dtype: torch.dtype, ranks: Communicator) -> None:
    """Every expert doubles what it gets by its own number of times."""
    owners = split_as(
        [TOP_K, *map(len, split_evenly(EXPERTS - TOP_K, ranks.size - 1))] if ranks.size > 1 else [EXPERTS]
    )
    mine = owners[ranks.rank]
    rows = 0 if kind == "nothing from some" and ranks.rank % 2 else 5 + 3 * ranks.rank
    torch.manual_seed(ranks.rank)
    x, experts, weights = torch.randn(rows, WIDTH).to(dtype), routed(kind, ranks.rank, rows), torch.rand(rows, TOP_K)
    pairs = 0

    def compute(x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nonlocal pairs
        here = (experts >= mine.start) & (experts < mine.stop)
        pairs += int(here.sum())
        return x.float() * (here * weights * (experts + 1)).sum(1, keepdim=True)

    found = Dispatch(ranks, owners, [ranks.rank])(x, experts, weights, compute)
    assert torch.allclose(found, x.float() * (weights * (experts + 1)).sum(1, keepdim=True), atol=1e-5)
    totals = ranks.allgather(torch.tensor([pairs, rows * TOP_K]))
    assert totals[:, 0].sum() == totals[:, 1].sum(), "every pair once"
    if kind == "all to one":
        assert totals[1:, 0].sum() == 0


def test_rows_that_all_have_come_back_to_all(ranks: Communicator) -> None:
    """Each rank computes its own experts' rows of all parts; with fewer rows than ranks, too."""
    owners = split_evenly(EXPERTS, ranks.size)
    for rows in (1, 12):
        torch.manual_seed(rows)  # the same on all ranks
        x, experts, weights = torch.randn(rows, WIDTH), routed("any", 0, rows), torch.rand(rows, TOP_K)

        def compute(x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            here = (experts >= owners[ranks.rank].start) & (experts < owners[ranks.rank].stop)
            return x * (here * weights * (experts + 1)).sum(1, keepdim=True)

        found = DispatchOfParts(ranks, owners, [ranks.rank], lambda rows: True)(x, experts, weights, compute)
        assert torch.allclose(found, x * (weights * (experts + 1)).sum(1, keepdim=True), atol=1e-5)


def open_stage(directory: Path, num_shares: int) -> Stage:
    """All shares of all layers, the experts of each in one of them."""
    config = engines.config_here(directory)
    shares, layers = split_layer(config, num_shares, num_shares), range(config.num_hidden_layers)
    held = {layer: list(range(num_shares)) for layer in layers}
    vocabulary, cpu = range(config.vocab_size), torch.device("cpu")
    return load_stage(Checkpoint(directory), config, held, vocabulary, torch.float32, cpu, Plain(), shares=shares)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "olmoe"])
def test_ranks_with_prompts_of_their_own_use_one_anothers_experts(name: str, models: Path, world: World) -> None:
    """As a stage whose ranks hold different rows: each gets the logits that it would have made alone."""
    ranks = Communicator(world.mpi_comm.Dup(), shares_core=True)
    stage, everything = open_stage(models / name, ranks.size), tuple(range(ranks.size))
    owners = [share.experts for share in split_layer(stage.config, ranks.size, ranks.size)]
    dispatch = Dispatch(ranks, owners, (ranks.rank,))
    prompt = reference_models.prompt_of(name, 5 + 7 * ranks.rank)
    layers, logits = range(stage.config.num_hidden_layers), []
    for shard in (Shard(everything), Shard(everything, dispatch=dispatch)):
        stage.load.clear()
        hidden, cache = stage.embed(torch.tensor(prompt)), stage.new_cache(layers, len(prompt))
        stage.forward(hidden, one_span(range(len(prompt)), cache, len(prompt)), layers, shard)
        logits.append(stage.logits(hidden))
    assert torch.allclose(*logits, atol=1e-4)
    loads = world.gather((sum(stage.load.routed.values()), sum(stage.load.computed.values())))
    assert sum(routed for routed, _ in loads) == sum(computed for _, computed in loads) > 0
    assert set(stage.load.computed) <= set(owners[ranks.rank])
