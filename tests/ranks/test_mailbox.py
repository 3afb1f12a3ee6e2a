"""Messages beside the computation: in order, from any rank to any, without waiting."""

import pytest

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.mailbox import Mailbox, share
from mpi_spp.comm.world import World

pytestmark = [pytest.mark.ranks(3), pytest.mark.smoke]

LARGE = 200_000  # numbers: more than any library sends ahead


def test_messages_of_a_rank_arrive_whole_and_in_order(world: World) -> None:
    """Every rank sends before it looks."""
    mailbox = Mailbox(world)
    others = [rank for rank in range(world.size) if rank != world.rank]
    for number in range(5):
        for other in others:
            mailbox.post([world.rank, number] + [7] * (LARGE * (number == 3)), other)
    heard: dict[int, list[int]] = {}
    for _ in range(5 * len(others)):
        source, message = mailbox.wait()
        assert message[0] == source and len(message) == 2 + LARGE * (message[1] == 3)
        heard.setdefault(source, []).append(message[1])
    mailbox.flush()
    assert heard == {other: list(range(5)) for other in others}
    assert mailbox.take() is None


def test_all_ranks_get_what_the_first_one_has(world: World) -> None:
    comm = Communicator(world.mpi_comm)
    for value in ([], {"a": list(range(LARGE))}, None):
        assert share(comm, value if comm.is_first else "another") == value
