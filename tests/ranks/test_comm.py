"""The communicator on any number of ranks: straight from memory, and staged as for a GPU without a CUDA-aware MPI."""

import time
from collections.abc import Callable

import pytest
import torch

from mpi_spp.comm import buffers
from mpi_spp.comm.buffers import Direct
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world

pytestmark = [pytest.mark.ranks(2, 3, 5), pytest.mark.smoke]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)


def values_of(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random bytes, so NaNs of every kind, the same on all ranks."""
    generator = torch.Generator().manual_seed(rank)
    size = torch.empty(shape, dtype=dtype).nbytes
    return torch.randint(256, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


# Point to point


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (7, 33), (128, 4096)], ids=str)
def test_a_neighbour_gets_every_byte(ranks: Communicator, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    arriving = torch.zeros(shape, dtype=dtype)
    receive = ranks.irecv(arriving, ranks.prev)
    send = ranks.isend(values_of(ranks.rank, shape, dtype), ranks.next)
    ranks.wait(receive)
    ranks.wait(send)
    assert same_bytes(arriving, values_of(ranks.prev, shape, dtype))


def test_an_empty_message(ranks: Communicator) -> None:
    receive = ranks.irecv(torch.empty(0, 5), ranks.prev)
    ranks.wait(ranks.isend(torch.empty(0, 5), ranks.next))
    ranks.wait(receive)


def test_everybody_to_everybody_in_any_order(ranks: Communicator) -> None:
    """Messages from one rank with one tag keep their order; tags and ranks are told apart."""
    arrived = torch.zeros(ranks.size, 3, 2, dtype=torch.int64)
    places = [(rank, tag, turn) for tag in (2, 0, 1) for rank in reversed(range(ranks.size)) for turn in (0, 1)]
    receives = [ranks.irecv(arrived[rank, tag, turn : turn + 1], rank, tag) for rank, tag, turn in places]
    message = [(dest, tag, turn) for turn in (0, 1) for tag in range(3) for dest in range(ranks.size)]
    sends = [ranks.isend(torch.tensor([100 * ranks.rank + 10 * tag + turn]), to, tag) for to, tag, turn in message]
    for request in receives + sends:
        ranks.wait(request)
    expected = [[[100 * rank + 10 * tag + turn for turn in (0, 1)] for tag in range(3)] for rank in range(ranks.size)]
    assert arrived.tolist() == expected


def test_a_sent_tensor_may_be_forgotten(ranks: Communicator) -> None:
    """The request keeps it alive until it has gone."""
    arriving = torch.zeros(1 << 20)
    send = ranks.isend(torch.full((1 << 20,), float(ranks.rank)), ranks.next)
    trash = [torch.full((1 << 20,), -1.0) for _ in range(8)]  # takes memory that was given back
    ranks.wait(ranks.irecv(arriving, ranks.prev), meanwhile=send.test)
    ranks.wait(send)
    assert len(trash) == 8 and bool((arriving == ranks.prev).all())


def test_tags_of_any_size(ranks: Communicator) -> None:
    """A long prompt has more rounds than some MPI has tags."""
    tag = ranks._largest_tag + 6
    arriving = torch.zeros(1)
    receive = ranks.irecv(arriving, ranks.prev, tag)
    ranks.wait(ranks.isend(torch.ones(1), ranks.next, tag))
    ranks.wait(receive)
    assert arriving.item() == 1.0


def test_a_duplicate_has_messages_of_its_own(ranks: Communicator) -> None:
    other = ranks.duplicate("other")
    sends = [comm.isend(torch.tensor([number]), comm.next) for number, comm in enumerate((ranks, other))]
    for number, comm in ((1, other), (0, ranks)):
        arriving = torch.tensor([9])
        comm.wait(comm.irecv(arriving, comm.prev))
        assert arriving.item() == number
    for send in sends:
        ranks.wait(send)


# Collectives


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "length_of",
    [
        lambda rank: 3,
        lambda rank: 5 * rank % 7,
        lambda rank: 4 if rank == 0 else 0,
        lambda rank: rank % 2,
        lambda rank: 0,
    ],
    ids=["equal", "uneven", "only the first", "every other", "none"],
)
def test_allgather(ranks: Communicator, length_of: Callable[[int], int], dtype: torch.dtype) -> None:
    lengths = [length_of(rank) for rank in range(ranks.size)]
    parts = [values_of(rank, (length, 9), dtype) for rank, length in enumerate(lengths)]
    rows = torch.zeros(sum(lengths), 9, dtype=dtype)
    start = sum(lengths[: ranks.rank])
    rows[start : start + lengths[ranks.rank]] = parts[ranks.rank]
    ranks.wait(ranks.iallgather(rows, lengths))
    assert same_bytes(rows, torch.cat(parts))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 2, 5), (0,), (2, 0)], ids=str)
def test_allgather_of_equal_shapes(ranks: Communicator, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mine, before = values_of(ranks.rank, (*shape, 1), dtype).squeeze(-1), ranks.bytes_sent
    gathered = ranks.allgather(mine)
    expected = torch.stack([values_of(rank, (*shape, 1), dtype).squeeze(-1) for rank in range(ranks.size)])
    assert same_bytes(gathered[..., None], expected[..., None])
    assert same_bytes(mine[..., None], expected[ranks.rank][..., None]), "what was given must not change"
    assert ranks.bytes_sent - before == mine.nbytes * (ranks.size - 1)


def test_messages_of_more_bytes_than_a_count_holds(ranks: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are counted then; shown with a lower limit instead of 2 GiB."""
    monkeypatch.setattr(buffers, "LARGEST_COUNT", 100)
    rows = torch.zeros(ranks.size * 2, 16)
    rows[2 * ranks.rank : 2 * ranks.rank + 2] = ranks.rank + 1
    ranks.wait(ranks.iallgather(rows, [2] * ranks.size))
    expected = torch.arange(1.0, ranks.size + 1).repeat_interleave(2)[:, None].expand(-1, 16)
    assert torch.equal(rows, expected)
    ranks.broadcast(rows, root=0)
    ranks.wait(
        ranks.isend(rows * (ranks.rank + 1), ranks.next), meanwhile=(receive := ranks.irecv(rows, ranks.prev)).test
    )
    ranks.wait(receive)
    assert torch.equal(rows, expected * (ranks.prev + 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_broadcast_from_every_rank(ranks: Communicator, dtype: torch.dtype) -> None:
    for root in range(ranks.size):
        tensor = values_of(ranks.rank, (5, 9), dtype)
        ranks.broadcast(tensor, root)
        assert same_bytes(tensor, values_of(root, (5, 9), dtype))


def test_bytes_sent_are_what_others_must_get(ranks: Communicator) -> None:
    others, before = ranks.size - 1, ranks.bytes_sent
    receive = ranks.irecv(torch.empty(10), ranks.prev)
    ranks.wait(ranks.isend(torch.empty(10), ranks.next))
    ranks.wait(receive)
    assert ranks.bytes_sent - before == 40
    ranks.wait(ranks.iallgather(torch.empty(ranks.size * 3, 5, dtype=torch.bfloat16), [3] * ranks.size))
    assert ranks.bytes_sent - before == 40 + 30 * others
    ranks.broadcast(torch.empty(100), root=0)
    assert ranks.bytes_sent - before == 40 + 30 * others + (400 * others if ranks.is_first else 0)


def test_only_contiguous_tensors_travel_straight() -> None:
    """Their memory would be read as if it were. (Staging copies them, and may take any.)"""
    direct = Communicator(the_world().mpi_comm, Direct())
    across = torch.zeros(4, 6).t()
    for start in (
        lambda: direct.isend(across, direct.next),
        lambda: direct.irecv(across, direct.prev),
        lambda: direct.iallgather(across, [6] + [0] * (direct.size - 1)),
        lambda: direct.broadcast(across, 0),
    ):
        with pytest.raises(ValueError, match="contiguous"):
            start()


def test_waiting_moves_other_work_on(ranks: Communicator) -> None:
    """The last rank is late; the others are not idle."""
    ranks.barrier()
    if ranks.is_last:
        time.sleep(0.05)
    arriving, turns = torch.zeros(1), 0

    def meanwhile() -> None:
        nonlocal turns
        turns += 1

    receive = ranks.irecv(arriving, ranks.prev)
    send = ranks.isend(torch.ones(1), ranks.next)
    ranks.wait(receive, meanwhile)
    ranks.wait(send)
    assert turns > 0 or ranks.rank != 0 or ranks.size == 1


# Sums over the ranks


@pytest.mark.parametrize("rows", [0, 1, 129])
def test_a_sum_is_the_same_on_all_ranks(ranks: Communicator, rows: int) -> None:
    def of_rank(rank: int) -> torch.Tensor:
        return torch.randn(rows, 33, generator=torch.Generator().manual_seed(rank))

    total, before = of_rank(ranks.rank), ranks.bytes_sent
    ranks.sum_in_place(total)
    torch.testing.assert_close(total, sum(map(of_rank, range(ranks.size)), torch.zeros(rows, 33)))
    root = total.clone()
    ranks.broadcast(root, 0)
    assert torch.equal(root, total)
    assert (ranks.bytes_sent > before) == (ranks.size > 1 and rows > 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_only_float32_is_summed(ranks: Communicator, dtype: torch.dtype) -> None:
    """mpi4py would add the bytes of bfloat16."""
    with pytest.raises(TypeError, match="only float32"):
        ranks.sum_in_place(torch.ones(3, dtype=dtype))


def test_parts_of_a_communicator(ranks: Communicator) -> None:
    """Odd and even ranks, in reverse order."""
    part = ranks.split(ranks.rank % 2, -ranks.rank, "half")
    mine = [rank for rank in reversed(range(ranks.size)) if rank % 2 == ranks.rank % 2]
    assert (part.size, mine[part.rank]) == (len(mine), ranks.rank)
    total = torch.tensor([float(ranks.rank)])
    part.sum_in_place(total)
    assert total.item() == sum(mine)


def test_parcels_of_any_size_reach_every_rank(ranks: Communicator) -> None:
    """Rank r sends r * s modulo 3 rows to rank s."""

    def lengths(rank: int) -> list[int]:
        return [(rank * other) % 3 for other in range(ranks.size)]

    outgoing = torch.full((sum(lengths(ranks.rank)), 5), ranks.rank, dtype=torch.uint8)
    incoming = torch.empty((sum(lengths(ranks.rank)), 5), dtype=torch.uint8)
    before = ranks.bytes_sent
    ranks.wait(ranks.ialltoall(outgoing, lengths(ranks.rank), incoming, lengths(ranks.rank)))
    expected = [torch.full((length, 5), rank) for rank, length in enumerate(lengths(ranks.rank))]
    assert torch.equal(incoming, torch.cat(expected).to(torch.uint8))
    to_others = sum(lengths(ranks.rank)) - lengths(ranks.rank)[ranks.rank]
    assert ranks.bytes_sent - before == 5 * to_others
