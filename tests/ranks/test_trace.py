"""A trace of a run: every message has both its ends, on one clock, and all layers of all ranks are there."""

import itertools
import time
from collections import Counter
from pathlib import Path

import pytest
import reference_models
from reference_models import NEW_TOKENS

from mpi_spp.comm import clock, mailbox
from mpi_spp.comm.clock import compare_clocks
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.mailbox import Mailbox, collect
from mpi_spp.comm.world import World
from mpi_spp.config import RunConfig
from mpi_spp.engine.engine import Engine
from mpi_spp.errors import UserError
from mpi_spp.instruments.trace import recording as tracing_module
from mpi_spp.instruments.trace.perfetto import placed, read_trace
from mpi_spp.instruments.trace.recording import tracing
from mpi_spp.instruments.trace.summary import summarize_trace
from mpi_spp.instruments.trace.timeline import Event, Timeline, starts_of_messages
from mpi_spp.model.config import read_config
from mpi_spp.system.timed import timed
from mpi_spp.system.timings import Clock

pytestmark = pytest.mark.ranks(3)

MODEL, PROMPT_TOKENS, CHUNK_SIZE = "qwen2", 40, 7
RUNS = {
    "ring": {"sync_strategy": "ring", "sync_granularity": "layer"},
    "pairwise": {"sync_strategy": "pairwise"},
    "tensor": {"prefill": "tensor", "decode": "tensor"},
    "pipelined decode": {"decode": "pipeline"},
}


@pytest.fixture(scope="module", params=RUNS)
def run(
    request: pytest.FixtureRequest, models: Path, world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Timeline], Engine]:
    """Its name, what was traced of one request, and what ran it."""
    file = world.on_rank_0(lambda: tmp_path_factory.mktemp("trace") / "trace.json")
    settings = {"dtype": "float32", "device": "cpu", "threads": 1, "layer_split": "even", "chunk_size": CHUNK_SIZE}
    config = RunConfig(model=str(models / MODEL), **settings, **RUNS[request.param])
    model = world.on_rank_0(lambda: read_config(models / MODEL))
    with tracing(world, file, prints_messages=False):
        engine = Engine(config, model, models / MODEL, world, Clock())
        tokens = list(engine.generate(reference_models.prompt_of(MODEL, PROMPT_TOKENS), frozenset(), NEW_TOKENS))
    assert len(tokens) == NEW_TOKENS
    return request.param, world.on_rank_0(lambda: read_trace(file)), engine


def messages(timelines: list[Timeline]) -> dict[str, dict[int, Event]]:
    """By name: what each rank saw of it."""
    found: dict[str, dict[int, Event]] = {}
    for timeline in timelines:
        for event in timeline.of("message"):
            of_rank = found.setdefault(event.facts["message"], {})
            assert timeline.rank not in of_rank, "a name comes once on a rank"
            of_rank[timeline.rank] = event
    return found


def test_every_send_has_its_receive(run: tuple[str, list[Timeline], Engine]) -> None:
    """And does not arrive before it was sent; every collective call is seen by all who must take part."""
    name, timelines, engine = run
    kinds: Counter[str] = Counter()
    for of_ranks in messages(timelines).values():
        kinds.update(event.facts["kind"] for event in of_ranks.values())
        for rank, event in of_ranks.items():
            assert of_ranks.keys() == {rank, *event.facts["with"]}
        ends = {event.facts["kind"]: event for event in of_ranks.values()}
        if "send" in ends:
            send, receive = ends["send"], ends["receive"]
            assert send.start < receive.end
            assert send.facts["bytes"] == receive.facts["bytes"]
    assert kinds["send"] == kinds["receive"]
    expected = {"ring": {"send"}, "pairwise": {"allgather"}, "tensor": {"sum"}, "pipelined decode": {"send"}}[name]
    assert engine.comm.size == 1 or expected <= kinds.keys()


def test_all_layers_of_all_ranks_are_there(run: tuple[str, list[Timeline], Engine]) -> None:
    name, timelines, engine = run
    count, stages = engine.model.num_hidden_layers, 1 if name == "tensor" else engine.comm.size
    num_chunks = -(-PROMPT_TOKENS // CHUNK_SIZE)
    seen = [Counter(event.name for event in timeline.of("compute")) for timeline in timelines]
    chunks = Counter(number for of_rank in seen for number in of_rank.elements() if number.startswith("chunk"))
    assert chunks == {f"chunk {number}": len(timelines) for number in range(num_chunks)}
    steps = 1 if name == "pipelined decode" else len(timelines)
    prefills = len(timelines) if stages == 1 else 1
    for layer in range(count):
        runs = sum(of_rank[f"layer {layer}"] for of_rank in seen)
        assert runs == prefills * num_chunks + steps * (NEW_TOKENS - 1)
    for of_rank in seen:
        assert of_rank["select"] == NEW_TOKENS
        assert [of_rank[f"step {number}"] for number in range(1, NEW_TOKENS)] == [1] * (NEW_TOKENS - 1)


def test_a_tick_begins_when_its_hidden_states_are_there(run: tuple[str, list[Timeline], Engine]) -> None:
    """Chunk c of a stage follows chunk c of the stage before it."""
    name, timelines, _ = run
    if name == "tensor":
        return
    chunks = [{e.name: e for e in one.of("compute") if e.name.startswith("chunk")} for one in timelines]
    for before, after in itertools.pairwise(chunks):
        for number, event in after.items():
            assert before[number].end <= event.start
            assert event.facts["tick"] == before[number].facts["tick"] + 1


def test_what_is_on_one_thread_lies_within_or_apart(run: tuple[str, list[Timeline], Engine]) -> None:
    for timeline in run[1]:
        for name, events in placed(timeline):
            stack: list[Event] = []
            for event in events:
                while stack and stack[-1].end <= event.start:
                    stack.pop()
                assert not stack or event.end <= stack[-1].end, name
                stack.append(event)


def test_every_wait_is_for_a_message(run: tuple[str, list[Timeline], Engine]) -> None:
    starts = starts_of_messages(run[1])
    for timeline in run[1]:
        for wait in timeline.of("wait"):
            assert wait.message in starts and timeline.rank in starts[wait.message]


def test_the_summary_of_a_run(run: tuple[str, list[Timeline], Engine]) -> None:
    summary = summarize_trace(run[1])
    path = summary["critical_path"]
    assert sum(path["work_s"]) + path["messages_s"] == pytest.approx(summary["window_s"])
    for rank in summary["ranks"]:
        assert rank["busy_s"] > 0 and rank["other_s"] >= 0
        assert rank["work_s"].keys() >= {"layer", "select"}


def test_clocks_that_are_apart_are_brought_together(ranks: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each clock here is ahead of the one before by 3 s; they are really one."""
    skew = 3_000_000_000 * ranks.rank
    monkeypatch.setattr(clock, "perf_counter_ns", lambda: time.perf_counter_ns() + skew)
    offsets = compare_clocks(ranks)
    assert len(offsets) == ranks.size
    for rank, offset in enumerate(offsets):
        assert abs(offset.ahead_ns - 3_000_000_000 * rank) <= offset.round_trip_ns / 2
        assert 0 <= offset.round_trip_ns < 20_000_000


def test_values_of_any_size_are_collected(ranks: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "_PIECE_BYTES", 1000)
    values = collect(ranks, [ranks.rank] * 3000)
    assert values == ([[rank] * 3000 for rank in range(ranks.size)] if ranks.is_first else [])


def test_messages_beside_the_computation_are_traced(world: World, tmp_path: Path) -> None:
    file = world.on_rank_0(lambda: tmp_path / "trace.json")
    box = Mailbox(world)
    with tracing(world, file, prints_messages=False):
        for other in box.others:
            box.post("hello", other)
        for _ in box.others:
            box.wait()
        box.flush()
    found = messages(world.on_rank_0(lambda: read_trace(file)))
    boxed = [of_ranks for name, of_ranks in found.items() if name.startswith("mailbox")]
    assert len(boxed) == world.size * (world.size - 1)
    for of_ranks in boxed:
        ends = {event.facts["kind"]: event for event in of_ranks.values()}
        assert ends["send"].start < ends["receive"].end


def test_every_rank_prints_its_messages(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    comm = Communicator(world.mpi_comm.Dup(), shares_core=True, name="a talk")
    with tracing(world, None, prints_messages=True):
        comm.barrier()
    comm.barrier()
    lines = [line for line in capfd.readouterr().err.splitlines() if "a talk" in line]
    others = "".join(f" r{rank}" for rank in range(world.size) if rank != world.rank)
    assert len(lines) == (world.size > 1)
    assert all(f" r{world.rank} barrier with{others}, a talk, tag 0, 0 B, " in line for line in lines)


def test_a_long_run_does_not_fill_the_memory(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "_MOST", 10)
    file = world.on_rank_0(lambda: tmp_path / "trace.json")
    with tracing(world, file, prints_messages=False):
        for number in range(25):
            with timed("layer", number):
                pass
    for timeline in world.on_rank_0(lambda: read_trace(file)):
        assert [event.name for event in timeline.of("compute")] == [f"layer {number}" for number in range(10)]
        assert timeline.dropped == 15


def test_a_file_that_cannot_be_written_at_the_end(world: World, tmp_path: Path) -> None:
    file = world.on_rank_0(lambda: tmp_path / "none" / "trace.json")
    with pytest.raises(UserError, match="cannot be written"), tracing(world, file, prints_messages=False):
        pass


def test_a_refused_run_is_not_traced(world: World, tmp_path: Path) -> None:
    """Nobody waits for ranks that are elsewhere."""
    file = world.on_rank_0(lambda: tmp_path / "trace.json")
    with pytest.raises(UserError, match="bad thing"), tracing(world, file, prints_messages=False):
        raise UserError("bad thing")
    assert world.on_rank_0(lambda: not file.exists())
