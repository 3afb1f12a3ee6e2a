"""Every operation by every way on real ranks: what arrives, what is measured, and that wrong data never count."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from mpi_spp.comm.bench import DTYPES, MODES, OPERATIONS
from mpi_spp.comm.bench.choice import open_transports
from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.measure import LeftOut, Meter, Point, Settings, WrongData
from mpi_spp.comm.bench.raw import Raw
from mpi_spp.comm.bench.timing import Computation, overlap_of
from mpi_spp.comm.bench.transport import Call, Transport
from mpi_spp.comm.world import World

pytestmark = pytest.mark.ranks(3)

TINY = Settings(seconds=0.002, rounds=2, tests=2, dtype=torch.float32, device=torch.device("cpu"), memory_bytes=1 << 30)
HOST_TRANSPORTS = ("wrapper", "raw", "pickled", "gloo")
# What there is, besides every blocking operation. Persistent collectives depend on the MPI.
NONBLOCKING = {
    "wrapper": ("allgather", "ring", "alltoall"),
    "raw": ("allgather", "ring", "allreduce", "alltoall", "broadcast"),
    "gloo": ("allgather", "ring", "allreduce", "alltoall", "broadcast"),
}
PERSISTENT_POINT_TO_POINT = ("ring", "ping-pong")


@pytest.fixture(scope="module")
def transports(world: World) -> Iterator[Sequence[Transport]]:
    if world.size == 1:
        pytest.skip("one rank has nobody to exchange messages with")
    opened, missing = open_transports([*HOST_TRANSPORTS, "nccl"], world, TINY.device, "auto")
    assert [transport.name for transport in opened] == list(HOST_TRANSPORTS)
    assert [(one.transport, one.operation) for one in missing] == [("nccl", None)]
    yield opened
    for transport in opened:
        transport.close()


meter_of = cache(Meter)  # making one is slower than what it measures here


def measured(
    world: World, transports: Sequence[Transport], operation: str, mode: str, nbytes: int, **changes: Any
) -> tuple[list[Point], list[LeftOut]]:
    """The points and gaps of one exchange."""
    (found,) = meter_of(world, replace(TINY, **changes)).points(operation, nbytes, [mode], transports)
    points = [one for one in found if isinstance(one, Point)]
    return points, [one for one in found if isinstance(one, LeftOut)]


@pytest.mark.parametrize("nbytes", [8, 70_000])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_way_brings_the_data_and_is_timed(
    world: World, transports: Sequence[Transport], operation: str, mode: str, nbytes: int
) -> None:
    points, gaps = measured(world, transports, operation, mode, nbytes)
    names = [point.transport for point in points]
    if mode == "blocking":
        assert names == list(HOST_TRANSPORTS)
    elif mode == "nonblocking":
        assert names == [name for name, operations in NONBLOCKING.items() if operation in operations]
    else:
        assert names == ["raw"] or operation not in PERSISTENT_POINT_TO_POINT
    assert {*names, *(gap.transport for gap in gaps)} == set(HOST_TRANSPORTS)
    for point in points:
        assert (point.operation, point.mode, point.message_bytes) == (operation, mode, nbytes)
        assert point.iterations >= 1 and len(point.samples) == TINY.rounds
        for sample in point.samples:
            assert 0 < sample.min_s <= sample.mean_s <= sample.max_s < 10
            assert (sample.overlap is None) == (mode != "nonblocking")
            assert sample.overlap is None or 0 <= sample.overlap <= 1
    assert world.gather(points) == [points] * world.size, "all ranks have the same figures"


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_other_dtypes(world: World, transports: Sequence[Transport], dtype: str) -> None:
    """mpi4py would add the bytes of bfloat16."""
    points, gaps = measured(world, transports, "allreduce", "blocking", 1000, dtype=getattr(torch, dtype))
    able = {"float32": HOST_TRANSPORTS, "float64": ("raw", "pickled", "gloo"), "bfloat16": ("gloo",)}[dtype]
    assert tuple(point.transport for point in points) == able
    assert {gap.transport for gap in gaps} == set(HOST_TRANSPORTS) - set(able)


class Wrong(Raw):
    """Damages what has arrived on the last rank, in the way that it was told."""

    name = "wrong"

    def __init__(self, world: World, damage: str) -> None:
        super().__init__(world.mpi_comm)
        self._damage = damage

    def blocking(self, exchange: Exchange) -> Call:
        return partial(self._spoil, super().blocking(exchange), exchange)

    def _spoil(self, call: Call, exchange: Exchange) -> None:
        if self._damage == "nothing is sent":
            return
        call()
        if exchange.rank == exchange.size - 1:
            if self._damage == "messages are shifted":
                exchange.incoming.copy_(exchange.incoming.roll(1, dims=-1))
            else:
                exchange.incoming[-1, -1] += 1


@pytest.mark.parametrize("damage", ["nothing is sent", "messages are shifted", "the last element is wrong"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_data_never_count(world: World, transports: Sequence[Transport], operation: str, damage: str) -> None:
    """All ranks learn of it, those that got the right data too."""
    with pytest.raises(WrongData, match=f"wrong, blocking {operation} of 1000 bytes: ranks .*{world.size - 1}"):
        measured(world, [Wrong(world, damage)], operation, "blocking", 1000)


def test_what_does_not_fit_the_memory_is_left_out(world: World, transports: Sequence[Transport]) -> None:
    """A pickled broadcast takes four copies besides."""
    points, gaps = measured(world, transports, "broadcast", "blocking", 1 << 20, memory_bytes=3 << 20)
    assert [point.transport for point in points] == ["wrapper", "raw", "gloo"]
    (gap,) = gaps
    assert (gap.transport, gap.message_bytes) == ("pickled", 1 << 20)
    assert gap.reason == "needs 5 MB on each rank, and 3 MB are there"
    points, gaps = measured(world, transports, "broadcast", "blocking", 1 << 20, memory_bytes=1000)
    assert (points, len(gaps)) == ([], len(HOST_TRANSPORTS))


def test_rank_0_decides_how_often_an_exchange_is_repeated(world: World, transports: Sequence[Transport]) -> None:
    """As often as fits into the time of a round: at most, since a sleep is never too short."""

    def block(iterations: int) -> tuple[float]:
        time.sleep(iterations * 0.001 * (1 + world.rank))
        return (0.0,)

    meter = meter_of(world, replace(TINY, seconds=0.2))
    counts = world.gather(meter.iterations(block))
    assert counts == counts[:1] * world.size
    assert 5 <= counts[0] <= 100


def test_overlap() -> None:
    """Computed for 3 of 4 units that the exchange takes alone; 1.5 more until it was done."""
    assert overlap_of(4.0, 4.5, 3.0) == pytest.approx(1 - 1.5 / 4)
    assert overlap_of(4.0, 9.0, 3.0) == 0
    assert overlap_of(4.0, 2.0, 3.0) == 1
    calls: list[int] = []
    assert 0.01 <= Computation().run(0.01, 4, lambda: calls.append(1)) < 0.1
    assert len(calls) == 4
