"""The model of time: cases with answers that a hand can find, and what must hold for any."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mpi_spp.config import GRANULARITIES, RunConfig
from mpi_spp.forecast.forecast import Forecast, forecast
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.forecast.speeds import Speeds, StepCost
from mpi_spp.forecast.steps import Measured, fit_alone, fit_step, is_steady
from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel import registry
from mpi_spp.parallel.links import Group, Link, Links, Sums
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.parallel.schedule import Cost

FREE = Link(0.0, float("inf"))
NO_LINKS = Links(FREE, FREE)
PER_TOKEN = Cost(4096, 0.0, 0.0, 1e-3, 0.0)  # of a layer; nothing besides
STEP = StepCost(1e-3, 1e-4, 1e9, 1e9, 1e-6)
TOKENS, NEW = 640, 9


def forecast_of(model: ModelConfig, hosts: str, prefill: str, decode: str, **changes: object) -> Forecast:
    """On ranks of these hosts, a letter for each."""
    speeds = {"layers": [PER_TOKEN], "steps": [STEP], "alone": [STEP], "crowding": [1.0]}
    values = {name: changes.pop(name, value) for name, value in speeds.items()}
    filled = {name: list(value) * (len(hosts) // len(value)) for name, value in values.items()}
    links, mesh = changes.pop("links", NO_LINKS), changes.pop("mesh", Mesh(pp=len(hosts)))
    config = RunConfig(
        model="some", prefill=prefill, decode=decode, **{"chunk_size": 64, "layer_split": "even"} | changes
    )
    all_speeds = Speeds(**filled, links=links, origins={})
    return forecast(Scenario(config, model, mesh, list(hosts), torch.float32, "plain", TOKENS, NEW, all_speeds))


def test_one_rank_computes_everything(model: ModelConfig) -> None:
    found = forecast_of(model, "a", "pipeline", "replicated")
    layers = model.num_hidden_layers
    assert found.times.prefill == pytest.approx(layers * TOKENS * 1e-3)
    assert found.times.sync == 0
    sizes = found.scenario.sizes()
    cache = 2 * model.num_key_value_heads * model.head_dim * 4 * (TOKENS + NEW // 2)
    choice = sizes.of_head(range(model.vocab_size)) / 1e9 + model.vocab_size * 1e-6
    token = 1e-3 + layers * (1e-4 + (sizes.of_shares(1)[0] + cache) / 1e9) + choice
    assert found.times.first == pytest.approx(choice)
    assert found.times.token == pytest.approx(token)
    assert found.request_s == pytest.approx(found.times.prefill + choice + (NEW - 1) * token)


@pytest.mark.parametrize("chunk_size", (64, 128, 320, 640))
def test_two_equal_stages_are_two_m_over_m_plus_one_times_as_fast(model: ModelConfig, chunk_size: int) -> None:
    one = forecast_of(model, "a", "pipeline", "replicated", chunk_size=chunk_size)
    two = forecast_of(model, "aa", "pipeline", "replicated", chunk_size=chunk_size)
    count = TOKENS // chunk_size
    assert one.times.prefill / two.times.prefill == pytest.approx(2 * count / (count + 1))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("decode", ("replicated", "tensor"))
def test_nothing_is_exposed_on_a_free_link(model: ModelConfig, decode: str, granularity: str) -> None:
    assert forecast_of(model, "abcd", "pipeline", decode, sync_granularity=granularity).times.sync == 0


@pytest.mark.parametrize("strategy", ("pairwise", "ring", "shared"))
def test_one_round_at_the_end_is_exposed_whole(model: ModelConfig, strategy: str) -> None:
    """Half of the cache leaves and enters each of two hosts."""
    links = Links(FREE, Link(0.25, 1e6))
    found = forecast_of(
        model, "ab", "pipeline", "replicated", links=links, sync_granularity="prefill", sync_strategy=strategy
    )
    assert found.times.sync == pytest.approx(0.25 + found.sync[0].received / 1e6)


def test_a_slow_link_dominates(model: ModelConfig) -> None:
    """From the first round's start on it is never idle; the first round goes one way, the last one the other."""
    slow = forecast_of(model, "ab", "pipeline", "replicated", links=Links(FREE, Link(0.0, 1e3)))
    count = TOKENS // 64
    total = slow.sync[0].received / 1e3 * (count + 1) / count
    assert slow.times.prefill + slow.times.sync == pytest.approx(total, rel=0.001)
    # Hidden states came this slow way too, before anything could be computed behind them.
    assert slow.times.prefill > TOKENS * 4 * model.hidden_size / 1e3


def test_a_link_that_keeps_up_leaves_the_last_round(model: ModelConfig) -> None:
    links = Links(FREE, Link(0.0, 1e9))
    found = forecast_of(model, "ab", "pipeline", "replicated", links=links)
    last = 2 * model.num_key_value_heads * model.head_dim * 4 * 64 * model.num_hidden_layers // 2
    assert found.times.sync == pytest.approx(last / 1e9)


def test_a_ring_goes_from_step_to_step(model: ModelConfig) -> None:
    links = Links(Link(0.0, 1e30), Link(0.5, 1e30))
    times = {
        sync: forecast_of(
            model, "abcd", "pipeline", "replicated", links=links, sync_strategy=sync, sync_granularity="prefill"
        ).times.sync
        for sync in ("pairwise", "ring")
    }
    assert times == pytest.approx({"pairwise": 0.5, "ring": 3 * 0.5})


def test_shared_memory_moves_nothing_inside_a_host(model: ModelConfig) -> None:
    links = Links(Link(1.0, 1.0), FREE)
    slow = {
        sync: forecast_of(model, "aabb", "pipeline", "replicated", links=links, sync_strategy=sync).times.sync
        for sync in ("pairwise", "shared")
    }
    assert slow["shared"] < 10 and slow["pairwise"] > 1e5  # only latencies of handing over to the other host's ranks


def test_shards_wait_for_one_another_in_each_half_of_a_layer(model: ModelConfig) -> None:
    """Four key/value heads on three ranks: one has two of them and more columns of the MLP elsewhere."""
    even = forecast_of(model, "aaaa", "tensor", "tensor")
    assert even.times.prefill == pytest.approx(model.num_hidden_layers * TOKENS * 1e-3 / 4, rel=0.03)
    uneven = forecast_of(model, "aaa", "tensor", "tensor")
    assert uneven.times.prefill > 1.02 * model.num_hidden_layers * TOKENS * 1e-3 / 3


def test_ranks_that_split_tokens_and_heads(model: ModelConfig) -> None:
    """Two all-to-alls a layer: half of the rows of 8 heads, then of 4, of 32 numbers each."""
    free = forecast_of(model, "ab", "ulysses", "tensor").times.prefill
    assert free == pytest.approx(model.num_hidden_layers * TOKENS * 1e-3 / 2)
    links = Links(FREE, Link(0.25, 1e6))
    slow = forecast_of(model, "ab", "ulysses", "tensor", links=links).times.prefill
    heads = TOKENS / 2 * (8 + 4) * model.head_dim * 4
    assert slow - free == pytest.approx(model.num_hidden_layers * (2 * 0.25 * TOKENS / 64 + heads / 1e6))


def test_heads_that_do_not_divide_make_ranks_wait_in_the_attention_only(model: ModelConfig) -> None:
    """Four key/value heads on three ranks: one attends with two of them."""
    pairs = Cost(4096, 0.0, 0.0, 0.0, 1e-6)
    alone, three = (
        forecast_of(model, hosts, "ulysses", "tensor", layers=[pairs]).times.prefill for hosts in ("a", "aaa")
    )
    assert three == pytest.approx(alone / 2)
    assert forecast_of(model, "aaa", "ulysses", "tensor").times.prefill == pytest.approx(
        forecast_of(model, "a", "ulysses", "tensor").times.prefill / 3
    )


def test_chunks_are_planned_for_the_tokens_of_a_rank(model: ModelConfig) -> None:
    """Each has the fixed cost of a chunk: more ranks take longer ones."""
    costs = [Cost(64, 1.0, 0.0, 1e-3, 0.0)]
    found = forecast_of(model, "aaaa", "ulysses", "tensor", chunk_size="auto", layers=costs)
    assert len(found.layout.chunks) == -(-TOKENS // (4 * 64))


def test_an_all_to_all() -> None:
    links = Links(Link(1.0, 10.0), Link(5.0, 100.0))
    assert links.all_to_all_s(300, Group(1)) == 0
    assert links.all_to_all_s(300, Group(4)) == pytest.approx(1 + 2 * 1 + 300 / 10)
    assert links.all_to_all_s(300, Group(4, hosts=2)) == pytest.approx(5 + 2 * 1 + max(100 / 10, 2 * 200 / 100))


def test_sums_count_twice_a_layer(model: ModelConfig) -> None:
    step = replace(STEP, sum_s=1.0)
    free, waiting = (
        forecast_of(model, "aa", "tensor", "tensor", steps=[one], alone=[one]).times.token for one in (STEP, step)
    )
    assert waiting - free == pytest.approx(2 * model.num_hidden_layers)


def test_a_lone_stage_has_the_memory_of_its_host(model: ModelConfig) -> None:
    fast = replace(STEP, weight_bytes_per_s=2e9)
    pipeline = forecast_of(model, "aa", "pipeline", "pipeline", alone=[fast]).times.token
    assert pipeline < forecast_of(model, "aa", "pipeline", "pipeline").times.token
    replicated = forecast_of(model, "aa", "pipeline", "replicated", alone=[fast]).times.token
    assert replicated == forecast_of(model, "aa", "pipeline", "replicated").times.token


def test_waiting_stages_leave_their_cores(model: ModelConfig) -> None:
    """Three stages on two cores: a tick in which two or one compute is not slowed down."""
    slowed = [PER_TOKEN.times(1.5)]
    crowded = forecast_of(model, "aaa", "pipeline", "replicated", layers=slowed, crowding=[1.5], layer_split=(3, 3, 2))
    own = forecast_of(model, "aaa", "pipeline", "replicated", layer_split=(3, 3, 2))
    count, tick = TOKENS // 64, 3 * 64 * 1e-3
    assert own.times.prefill == pytest.approx((count + 1) * tick + 2 * 64 * 1e-3)
    assert own.times.prefill + 0.5 * (count - 2) * 2 * 64e-3 < crowded.times.prefill < 1.5 * own.times.prefill


def test_shards_that_share_cores_wait_for_the_last_turn(model: ModelConfig) -> None:
    """Three shards on two cores: every sum waits for the one that comes second on a core."""
    together = forecast_of(model, "aaa", "tensor", "tensor", layers=[PER_TOKEN.times(1.5)], crowding=[1.5])
    turns = forecast_of(model, "aaa", "tensor", "tensor", layers=[PER_TOKEN.times(2.0)], crowding=[2.0])
    assert together.times.prefill == pytest.approx(turns.times.prefill)
    assert together.times.prefill > forecast_of(model, "aaa", "tensor", "tensor").times.prefill


LINKS = st.builds(Link, st.floats(0, 1), st.floats(1e3, 1e12))


@given(
    inside=LINKS,
    between=LINKS,
    by=st.floats(1, 1000),
    hosts=st.sampled_from(["aa", "ab", "aabb", "abcd"]),
    prefill=st.sampled_from(registry.choices("prefill")),
    decode=st.sampled_from(["replicated", "tensor", "pipeline"]),
    granularity=st.sampled_from(GRANULARITIES),
)
def test_a_faster_link_never_makes_it_slower(
    model: ModelConfig, inside: Link, between: Link, by: float, hosts: str, prefill: str, decode: str, granularity: str
) -> None:
    times = []
    for factor in (1.0, by):
        links = Links(*(Link(link.latency_s / factor, link.bytes_per_s * factor) for link in (inside, between)))
        found = forecast_of(model, hosts, prefill, decode, links=links, sync_granularity=granularity)
        times.append(found.times)
    slow, fast = times
    assert fast.prefill + fast.sync <= (slow.prefill + slow.sync) * (1 + 1e-9)
    assert fast.token <= slow.token * (1 + 1e-9)


@given(by=st.floats(1, 100), decode=st.sampled_from(["replicated", "tensor", "pipeline"]))
def test_a_faster_rank_never_makes_it_slower(model: ModelConfig, by: float, decode: str) -> None:
    slow, fast = (
        forecast_of(
            model, "ab", "pipeline", decode, layers=[PER_TOKEN.times(1 / factor)], steps=[STEP.slower(1 / factor)]
        ).request_s
        for factor in (1.0, by)
    )
    assert fast <= slow * (1 + 1e-9)


def test_sums_are_as_they_were_measured() -> None:
    link = Link(1e-6, 1e9)
    links = Links(link, Link(1e-5, 1e8), Sums(Group(4), 1e-4, 2e9))
    assert links.sum_s(0, Group(4)) == pytest.approx(1e-4)
    assert links.sum_s(0, Group(2)) == pytest.approx(0.5e-4)  # half as many rounds
    assert links.sum_s(2000, Group(2)) - links.sum_s(0, Group(2)) == pytest.approx(2000 / 2e9)
    assert links.sum_s(0, Group(8, hosts=2)) == pytest.approx(1e-4 + 2e-5)
    assert links.sum_s(1000, Group(1)) == 0
    assert links.sum_between_s(0, Group(8, hosts=2)) == pytest.approx(2e-5)


def times_of(step: StepCost, alone: bool = False) -> Measured:
    """The passes of a rank that has this cost: 10 layers of 1 MB, 20 shares of 0.4 MB, of which the slowest has 0.5."""
    near = 10 * (step.per_layer + 1e6 / step.weight_bytes_per_s)
    share = 20 * (step.per_layer + 4e5 / step.weight_bytes_per_s)
    seconds = {
        "nothing": step.per_token,
        "near": step.per_token + near,
        "far": step.per_token + near + 10 * 3e5 / step.cache_bytes_per_s,
        "share": step.per_token + share,
        "sums": step.per_token + 20 * (step.per_layer + 5e5 / step.weight_bytes_per_s + 2 * (step.sum_s or 0)),
        "choice": 1e6 / step.weight_bytes_per_s + 100 * step.per_row,
    }
    return Measured(seconds, 10, 1_000_000, 20, 400_000, 500_000, 300_000, 1_000_000, 100)


def test_a_step_is_fitted_exactly() -> None:
    true = StepCost(1e-4, 2e-5, 2e10, 1e10, 1e-8, 3e-5)
    fitted = fit_step(times_of(true))
    assert vars(fitted) == pytest.approx(vars(true))
    faster = replace(true, weight_bytes_per_s=4e10, cache_bytes_per_s=3e10, sum_s=None)
    assert vars(fit_alone(fitted, times_of(true), times_of(faster).seconds)) == pytest.approx(vars(faster))


def test_passes_that_another_program_disturbed_are_told_from_others() -> None:
    assert is_steady([1.0, 1.1, 1.2, 1.1, 5.0])
    assert not is_steady([1.0, 1.7, 1.6, 1.1, 5.0])


@given(noise=st.lists(st.floats(0.5, 2), min_size=6, max_size=6))
@example([2.0, 0.8359375, 1.0, 0.5, 1.0, 1.0])  # where rounding leaves less than nothing
def test_no_figure_of_a_step_is_negative(noise: list[float]) -> None:
    measured = times_of(StepCost(1e-4, 2e-5, 2e10, 1e10, 1e-8, 3e-5))
    seconds = {name: value * by for (name, value), by in zip(measured.seconds.items(), noise, strict=True)}
    fitted = fit_step(replace(measured, seconds=seconds))
    values = [value for value in vars(fitted).values() if value is not None]
    assert min(values) >= 0 and fitted.weight_bytes_per_s > 0
    assert fitted.per_layer * 10 <= seconds["near"]
