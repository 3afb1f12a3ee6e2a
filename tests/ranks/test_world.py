"""All ranks of a job agree on errors and share their cores."""

from typing import Any

import pytest
import torch

from mpi_spp.comm import world as world_module
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import World
from mpi_spp.errors import UserError

pytestmark = pytest.mark.ranks(1, 3)


def agreed_error(world: World, failing: set[int]) -> UserError:
    """What this rank learns when these ranks have an error of their own."""
    with pytest.raises(UserError) as caught:
        world.agree(UserError(f"bad thing {world.rank}") if world.rank in failing else None)
    return caught.value


def test_no_error_is_no_error(world: World) -> None:
    world.agree()


def test_the_error_of_one_rank_is_everybodys(world: World) -> None:
    for rank in range(world.size):
        error = agreed_error(world, {rank})
        assert str(error) == ("bad thing 0" if rank == 0 else f"on rank {rank}: bad thing {rank}")
        assert error.agreed


def test_of_several_errors_the_lowest_ranks_is_told(world: World) -> None:
    assert str(agreed_error(world, set(range(world.size)))) == "bad thing 0"
    if world.size > 2:
        assert str(agreed_error(world, {2, 1})) == "on rank 1: bad thing 1"


def test_work_together(world: World) -> None:
    assert world.together(lambda: world.rank * 2) == world.rank * 2


def test_work_that_one_rank_refuses(world: World) -> None:
    def work() -> None:
        if world.rank == world.size - 1:
            raise UserError("the last rank cannot")

    with pytest.raises(UserError, match="the last rank cannot") as caught:
        world.together(work)
    assert caught.value.agreed
    world.agree()  # and all are in step again


def test_rank_0_works_for_all(world: World) -> None:
    done: list[int] = []
    assert world.on_rank_0(lambda: done.append(world.rank) or {"answer": [42]}) == {"answer": [42]}
    assert done == ([0] if world.rank == 0 else [])


def test_rank_0_refuses_for_all(world: World) -> None:
    def work() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError, match=r"^no such file$"):
        world.on_rank_0(work)


def test_one_rank_of_a_host_works_for_the_others_there(world: World) -> None:
    done: list[int] = []
    assert world.once_a_host(lambda: done.append(world.local_rank) or "fast") == "fast"
    assert done == ([0] if world.local_rank == 0 else [])


def test_gather(world: World) -> None:
    assert world.gather(str(world.rank)) == [str(rank) for rank in range(world.size)]


@pytest.mark.ranks(3)
def test_ranks_that_come_apart_learn_of_it(world: World) -> None:
    world.doing = "call 2" if world.rank == 1 else "call 1"
    with pytest.raises(UserError, match=r"apart: ranks 0, 2 at call 1; rank 1 at call 2; all of them") as caught:
        world.gather(1)
    assert caught.value.agreed
    world.doing = ""
    with pytest.raises(UserError, match=r"apart: ranks 0, 1 at its end; rank 2 at gather;"):
        world.gather(1) if world.rank == 2 else world.end()
    world.agree()


@pytest.mark.ranks(3)
def test_an_error_comes_before_whatever_the_others_are_at(world: World) -> None:
    with pytest.raises(UserError, match=r"^on rank 1: bad thing$"):
        world.agree(UserError("bad thing")) if world.rank == 1 else world.end()
    world.end()


def test_local_ranks_are_counted(world: World) -> None:
    assert sorted(world.gather((world.host, world.local_rank))) == [(world.host, rank) for rank in range(world.size)]
    assert world.local_size == world.size


class LocalRanks:
    """The ranks of a host, by the cores that they are bound to."""

    def __init__(self, cores: list[list[int]]) -> None:
        self._cores = cores

    def allgather(self, mine: list[int]) -> list[list[int]]:
        assert mine in self._cores
        return self._cores


@pytest.mark.parametrize(
    "cores, threads, threads_that_share",
    [
        ([[0, 1, 2, 3]], 4, 5),
        ([[0], [1]], 1, 2),
        ([[0, 1], [0, 1]], 1, 2),
        ([[0, 1, 2, 3], [0, 1, 2, 3]], 2, 3),
        ([[0, 1, 2, 3], [4, 5]], 4, 5),
        ([[0, 1], [0, 1], [0, 1]], 1, 1),  # more ranks than cores: one thread each is already too many
        ([[0, 1, 2, 3], [0, 1, 2, 3], [4]], 2, 3),
    ],
)
def test_threads_are_the_ranks_share_of_its_cores(
    cores: list[list[int]], threads: int, threads_that_share: int
) -> None:
    world = World.__new__(World)
    world.cores, world.cpu_quota, world.local_size = cores[0], None, len(cores)
    world._sharers = world._count_sharers(LocalRanks(cores))  # type: ignore[arg-type]
    assert world.default_threads() == threads
    assert world.shares_core(threads_that_share)
    assert threads_that_share == 1 or not world.shares_core(threads_that_share - 1)


@pytest.mark.parametrize(
    "quota, num_ranks, threads, crowding", [(1, 1, 1, 1), (1, 2, 1, 2), (2.5, 1, 2, 1), (0.5, 1, 1, 2), (9, 2, 2, 1)]
)
def test_threads_follow_a_quota(quota: float, num_ranks: int, threads: int, crowding: float) -> None:
    """Of the time of all ranks on four cores."""
    world = World.__new__(World)
    world.cores, world.cpu_quota, world.host = [0, 1, 2, 3], quota, "vm"
    world._sharers = world.local_size = num_ranks
    assert (world.default_threads(), world.crowding(threads)) == (threads, crowding)
    assert (world.quota_warning(threads) is None) == (crowding == 1)
    assert "share a CPU quota" in str(world.quota_warning(4)) or quota == 9


def test_ranks_wait_alike_where_only_some_share_a_core(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "shares_core", lambda self, threads: self.rank == 0)
    comm = Communicator(world.mpi_comm.Dup(), shares_core=world.some_share_cores(1))
    total = torch.ones(3)
    comm.sum_in_place(total)
    assert total.tolist() == [world.size] * 3


@pytest.mark.parametrize("rank, waits", [(0, []), (2, [2])])
def test_a_launcher_of_another_mpi_is_noticed(monkeypatch: pytest.MonkeyPatch, rank: int, waits: list[int]) -> None:
    """Every process is then alone in a job of one, and rank 0 must have spoken before another one leaves."""
    waited: list[Any] = []
    monkeypatch.setattr(world_module, "launched_size", lambda: 3)
    monkeypatch.setattr(world_module, "launched_rank", lambda: rank)
    monkeypatch.setattr(world_module.time, "sleep", waited.append)
    alone = World.__new__(World)
    alone.rank, alone.size = 0, 1
    with pytest.raises(
        UserError, match=r"the launcher started 3 ranks, but mpi4py loaded .*, which sees only one"
    ) as caught:
        alone._require_one_job()
    assert caught.value.agreed
    assert waited == waits
