"""Scores that are no finite numbers end a run on all ranks, in one line that names the weight or layer to blame."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engines import config_of, engine_of
from reference_models import build_reference_models
from tiny_model import PROMPT, Tensors, edit

from mpi_spp.comm.world import World, the_world
from mpi_spp.errors import UserError

pytestmark = pytest.mark.ranks(1, 2)


@pytest.fixture
def world() -> World:
    return the_world()


def with_value(name: str, value: float) -> Callable[[Tensors], Tensors]:
    """One number of a tensor is this."""

    def change(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[0] = value
        return tensors

    return change


def grown(tensors: Tensors) -> Tensors:
    """All finite, but the first layer's output is not."""
    for name in ("up_proj", "gate_proj", "down_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"] *= 1e18
    return tensors


DAMAGES = {
    "final norm": (with_value("model.norm.weight", torch.nan), r"model\.norm\.weight holds nan; get the model again"),
    "a layer": (
        with_value("model.layers.2.mlp.down_proj.weight", torch.inf),
        r"layers\.2\.mlp\.down_proj\.weight holds inf",
    ),
    "a row of the head": (with_value("lm_head.weight", torch.nan), r"lm_head\.weight holds nan"),
    "no weight": (grown, "all weights are; .* are those of layer 2, so look at layers 1 and 2; take another model"),
    "float16": (
        with_value("model.layers.0.mlp.up_proj.weight", 1e6),
        r"up_proj\.weight holds 1e\+06, but float16 ends at",
    ),
}
WAYS = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 1},
    "top-k": {"temperature": 1.0, "seed": 1, "top_k": 3},
    "top-p": {"temperature": 1.0, "seed": 1, "top_p": 0.9},
    "pipeline": {"decode": "pipeline"},
    "tensor, codes": {"decode": "tensor", "kv_cache_dtype": "int8"},
    "ring": {"prefill": "ring", "decode": "context"},
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models by their damage, made by rank 0."""

    def make() -> dict[str, Path]:
        models, made = build_reference_models(), {}
        for name, (change, _) in DAMAGES.items():
            made[name] = Path(
                shutil.copytree(models / "llama_linear_rope", tmp_path_factory.mktemp("damaged") / "model")
            )
            edit(made[name], change)
        return made

    return the_world().on_rank_0(make)


@pytest.mark.parametrize(
    "damage, way",
    [*((damage, "greedy") for damage in DAMAGES), *(("a layer", way) for way in WAYS), ("no weight", "ring")],
)
def test_what_is_to_blame_is_named_on_all_ranks(world: World, damaged: dict[str, Path], damage: str, way: str) -> None:
    if world.size == 1 and way == "ring":
        pytest.skip("needs ranks")
    dtype = {"dtype": "float16"} if damage == "float16" else {}
    engine = engine_of(config_of(damaged[damage], **WAYS[way] | dtype), world)
    with pytest.raises(UserError, match=DAMAGES[damage][1]) as caught:
        list(engine.generate(PROMPT, frozenset(), 4))
    assert len(set(world.gather(str(caught.value)))) == 1
