"""Forecasts of memory, traffic and times, and the choice by them: pure functions, of models that need not be there."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from mpi_spp.cli.plan import command
from mpi_spp.config import QUANTIZE, RunConfig
from mpi_spp.errors import UserError
from mpi_spp.forecast import choice
from mpi_spp.forecast.forecast import forecast
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.forecast.speeds import assumed
from mpi_spp.forecast.sync import joints
from mpi_spp.kernels.quantized import BITS, quantize
from mpi_spp.launch.hostfile import parse_hosts, read_hostfile
from mpi_spp.model.arithmetic import bytes_of_weights
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.loading.sizes import _quantized, sizes_of
from mpi_spp.parallel import registry
from mpi_spp.parallel.links import Link, Links
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.partition import split_evenly

PAIRS = list(itertools.product(*map(registry.choices, ("prefill", "decode"))))


def setting_of(model: ModelConfig, num_ranks: int, prefill: str, decode: str, **options: object) -> Scenario:
    config = RunConfig(model="some", prefill=prefill, decode=decode, chunk_size=128, **options)
    hosts = ["here"] * num_ranks
    speeds = assumed(model, hosts)
    mesh = Mesh(pp=num_ranks)
    return Scenario(config, model, mesh, hosts, torch.float32, "plain", 1024, 128, speeds, program_bytes=0)


def limited(scenario: Scenario, limit: int) -> Scenario:
    return replace(scenario, limits=dict.fromkeys(scenario.hosts, limit))


@pytest.mark.parametrize("num_ranks", (1, 2, 3, 5))
@pytest.mark.parametrize("scheme", (None, *QUANTIZE))
@pytest.mark.parametrize("kernels", ("plain", "native"))
def test_shares_and_slices_add_up(model: ModelConfig, num_ranks: int, scheme: str | None, kernels: str) -> None:
    """To the whole, but for panels that are cut and what is no group of its own."""
    sizes = sizes_of(model, torch.bfloat16, kernels, scheme, 32)
    exact = scheme is None and kernels == "plain" and num_ranks <= model.num_key_value_heads  # else heads repeat
    tolerance = 0 if exact else 0.6
    assert sum(sizes.of_shares(num_ranks)) == pytest.approx(sizes.of_shares(1)[0], rel=tolerance)
    head = [sizes.of_head(rows) for rows in split_evenly(model.vocab_size, num_ranks)]
    assert sum(head) == pytest.approx(sizes.of_head(range(model.vocab_size)), rel=0 if exact else 0.1)
    if exact:
        assert sizes.of_shares(1)[0] == 2 * model.layer_parameters


@pytest.mark.parametrize("scheme", (None, *QUANTIZE))
@pytest.mark.parametrize("kernels", ("plain", "native", "widened"))
def test_a_first_look_at_memory_is_near_the_exact_bytes(model: ModelConfig, scheme: str | None, kernels: str) -> None:
    """Scales and norms are left out of it."""
    sizes = sizes_of(model, torch.bfloat16, kernels, scheme, 32)
    of_layer, of_row = bytes_of_weights(model, kernels, torch.bfloat16, scheme)
    assert of_layer == pytest.approx(sizes.of_layer(), rel=0.25)
    assert of_row * model.vocab_size == pytest.approx(sizes.of_head(range(model.vocab_size)), rel=0.25)


@pytest.mark.parametrize("scheme", QUANTIZE)
def test_shapes_of_quantised_weights(scheme: str) -> None:
    shape = (70, 100)
    assert _quantized(shape, BITS[scheme], 32).data.shape == quantize(torch.randn(shape), BITS[scheme], 32).data.shape


@pytest.mark.parametrize("prefill, decode", PAIRS)
def test_weights_are_there_once_a_share(model: ModelConfig, prefill: str, decode: str) -> None:
    whole = forecast(setting_of(model, 1, prefill, decode)).memory[0]
    parts = forecast(setting_of(model, 4, prefill, decode)).memory
    total = sum(rank.weights for rank in parts)
    if prefill == decode:
        assert total == whole.weights
        assert sum(rank.cache for rank in parts) == whole.cache
    assert whole.weights <= total <= 4 * whole.weights


def test_more_ranks_never_need_more_memory_each(model: ModelConfig) -> None:
    totals = [
        max(rank.total for rank in forecast(setting_of(model, count, "tensor", "tensor")).memory)
        for count in range(1, 9)
    ]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("prefill, decode", PAIRS)
def test_what_is_sent_is_received(model: ModelConfig, prefill: str, decode: str) -> None:
    found = forecast(setting_of(model, 4, prefill, decode))
    for traffic in (found.prefill, found.sync, found.decode):
        assert sum(rank.sent for rank in traffic) == sum(rank.received for rank in traffic)


def test_what_a_sync_moves(model: ModelConfig) -> None:
    """(P-1)/P of the cache to each rank; of a cache whose heads stay split (P-1)/P**2."""
    whole = forecast(setting_of(model, 4, "pipeline", "replicated"))
    cache = whole.memory[0].cache * 1024 // (1024 + 128)
    assert [rank.received for rank in whole.sync] == [cache * 3 // 4] * 4
    resharded = forecast(setting_of(model, 4, "pipeline", "tensor"))
    assert [rank.received for rank in resharded.sync] == [cache * 3 // 16] * 4


def test_a_tensor_decode_sums_twice_a_layer(model: ModelConfig) -> None:
    one = forecast(setting_of(model, 2, "tensor", "tensor")).decode[0]
    assert one.messages == 2 * model.num_hidden_layers + 1
    assert one.sent == 2 * model.num_hidden_layers * 4 * model.hidden_size + 8


def test_ulysses_exchanges_heads_twice_a_layer(model: ModelConfig) -> None:
    """8 query and 4 key/value heads of 32 on 2 ranks: half of the rows of 8 heads, then of 4, in eight chunks."""
    found = forecast(setting_of(model, 2, "ulysses", "tensor"))
    last = 4 * model.hidden_size
    heads = 8 * 64 * model.num_hidden_layers * (8 + 4) * model.head_dim * 4
    assert [rank.sent for rank in found.prefill] == [heads, heads + last]
    assert found.prefill[0].messages == 8 * 2 * model.num_hidden_layers + 1
    assert found.moved is None
    sizes, slices = found.scenario.sizes(), split_evenly(model.vocab_size, 2)
    layers = [rank.weights - sizes.of_head(rows) for rank, rows in zip(found.memory, slices, strict=True)]
    assert layers == [model.num_hidden_layers * sizes.of_shares(1)[0]] * 2


def test_every_pair_is_joined() -> None:
    found = joints(Mesh(pp=3))
    assert {(joint.prefill, joint.decode) for joint in found} >= set(PAIRS)
    assert all(joint.chosen in joint.syncs for joint in found)


@pytest.mark.parametrize("percent", (90, 75, 60))
def test_what_is_named_instead_fits(model: ModelConfig, percent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = setting_of(model, 2, "pipeline", "replicated")
    need = sum(rank.total for rank in forecast(scenario).memory)
    tight = limited(scenario, need * percent // 100)
    named = []
    monkeypatch.setattr(choice, "_fits", lambda tried, fits=choice._fits: fits(tried) and not named.append(tried))
    with pytest.raises(UserError, match="would fit"):
        choice.require_room(forecast(tight))
    assert forecast(named[-1]).lacking is None


def test_auto_takes_the_fastest_that_fits(model: ModelConfig) -> None:
    scenario = setting_of(model, 2, "auto", "auto")
    free = choice.choose(scenario)
    assert free.best.request_s == min(free.seconds.values())
    assert len(free.seconds) == len(PAIRS)
    need = sum(rank.total for rank in forecast(setting_of(model, 2, "pipeline", "replicated")).memory)
    tight = choice.choose(limited(scenario, need - 1))
    assert tight.best.lacking is None and "did not fit" in tight.reason
    with pytest.raises(UserError, match="--max-memory"):
        choice.choose(limited(scenario, 1000))


@pytest.mark.parametrize("fast, expected", [(True, "chunk"), (False, "layer")])
def test_auto_syncs_after_every_layer_where_the_link_is_busy(model: ModelConfig, fast: bool, expected: str) -> None:
    """For more than a third of the prefill: measured in benchmarks/RESULTS.md."""
    scenario = replace(setting_of(model, 2, "pipeline", "replicated"), hosts=["a", "b"])
    found = forecast(scenario)
    rate = found.sync[0].sent / found.times.prefill * (4 if fast else 2)  # bytes a second that take so much of it
    links = Links(scenario.speeds.links.inside, Link(0.0, rate))
    open_ = replace(scenario.config, sync_granularity="auto")
    scenario = replace(scenario, config=open_, speeds=replace(scenario.speeds, links=links))
    chosen = choice.choose(scenario)
    assert chosen.best.scenario.config.sync_granularity == chosen.as_data()["sync_granularity"] == expected
    assert chosen.reason.endswith(f"--sync-granularity {expected}")


def test_memory_of_hosts(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("node1 slots=2 max-memory=8GiB\nnode2:3\nnode1 slots=1\n")
    assert [(host.slots, host.max_memory) for host in read_hostfile(path)] == [(3, 8 << 30), (3, None)]
    assert [(host.name, host.slots) for host in parse_hosts("a:2,b")] == [("a", 2), ("b", 1)]


def plan(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--model", str(directory), "--kernels", "plain", *arguments])


def test_the_command_shows_what_most_ask_for_and_the_rest_with_all(directory: Path) -> None:
    words = ("--num-ranks", "3", "--decode", "tensor", "--chunk-size", "128")
    short, shown = plan(directory, *words), plan(directory, *words, "--all")
    assert short.exit_code == shown.exit_code == 0, shown.output
    for word in ("bytes received", "reshard", "which sync joins"):
        assert word in shown.output and word not in short.output, word
    for word in ("KV heads", "exposed sync", "assumed"):
        assert word in shown.output and word in short.output, word
    assert "--all shows" in short.output and len(short.output.splitlines()) < 20
    assert max(map(len, short.output.splitlines())) <= 80
    assert max(map(len, shown.output.splitlines())) <= 80 and "…" not in shown.output


def test_the_command_writes_json(directory: Path, tmp_path: Path) -> None:

    path = tmp_path / "plan.json"
    arguments = ("--hosts", "a:2,b:1", "--decode", "auto", "--link-gbit", "1", "--json", str(path))
    assert plan(directory, *arguments).exit_code == 0
    told = json.loads(path.read_text())
    assert [rank["host"] for rank in told["ranks"]] == ["a", "a", "b"]
    assert told["speeds"]["links"]["between"]["bytes_per_s"] == 1e9 / 8
    assert told["choice"]["decode"] == told["decode"] and len(told["joints"]) >= len(PAIRS)


@pytest.mark.parametrize("mesh, ranks", [("pp=3", 3), ("pp=2,tp=2", 4), ("dp=2,pp=3", 3)])
def test_a_mesh_says_how_many_ranks_are_planned(directory: Path, mesh: str, ranks: int) -> None:
    """Of one replica."""
    told = json.loads(plan(directory, "--mesh", mesh, "--json", "-").stdout)
    assert len(told["ranks"]) == ranks


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--num-ranks", "2", "--max-memory", "1MB"), "--max-memory: "),
        (("--num-ranks", "2", "--hosts", "a:2"), "leave one of them out"),
        (("--num-ranks", "2", "--mesh", "pp=3"), "is for 3 ranks, not 2"),
        (("--hosts", "a:2,b:2", "--mesh", "pp=3"), "is for 3 ranks, not 4"),
        (("--mesh", "pp=999999999"), "more than 16384 ranks"),
        (("--hosts", "a:16000,b:16000"), "more than 16384 ranks"),
        (("--num-ranks", "2", "--prompt-tokens", "2000000"), "positions"),
        (("--num-ranks", "2", "--link", "1gbe"), "all ranks are on one host"),
        (("--num-ranks", "9"), "8 layers"),
    ],
)
def test_what_the_command_refuses(directory: Path, arguments: tuple[str, ...], says: str) -> None:
    refused = plan(directory, *arguments)
    assert isinstance(refused.exception, UserError) and says in str(refused.exception)


def test_a_plan_loads_no_mpi_library(directory: Path) -> None:
    """Nor torch's compiler, which takes a second."""
    import subprocess
    import sys

    program = (
        "import sys; from mpi_spp.cli.plan import command;"
        f"command(['--model', {str(directory)!r}, '--num-ranks', '2', '--json', '-'], standalone_mode=False);"
        "assert not {'mpi4py.MPI', 'torch._dynamo'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
