"""Requests from threads that speak HTTP, tokens back to them, and an end that loses nobody."""

import threading

import pytest

from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.world import the_world
from mpi_spp.engine.source import Arrived
from mpi_spp.entrypoints.openai.bridge import Bridge, Busy, Event, Ticket
from mpi_spp.errors import UserError
from mpi_spp.request import Request


@pytest.fixture
def bridge(alone: Communicator) -> Bridge:
    return Bridge(the_world(), alone, most_waiting=3)


def ticket(events: list[Event], new_tokens: int = 2) -> Ticket:
    return Ticket(Request([1], frozenset({9}), new_tokens), events.append)


def test_tokens_reach_who_asked(bridge: Bridge) -> None:
    first, second = list[Event](), list[Event]()
    tickets = [ticket(first), ticket(second)]
    bridge.submit(tickets)
    assert bridge.take(1, is_idle=True) == Arrived([tickets[0].request], [])
    assert bridge.take(1, is_idle=False) == Arrived([tickets[1].request], [])
    for number, token in ((0, 5), (1, 9), (0, 6), (0, 7)):  # 1 ends by its stop token, 0 by its length
        bridge.deliver(number, token)
    assert (first, second, bridge.num_running) == ([5, 6], [9], 0)


def test_who_leaves_is_dropped(bridge: Bridge) -> None:
    events = list[Event]()
    waits, runs = ticket(events), ticket(events)
    bridge.submit([runs, waits])
    bridge.take(1, is_idle=True)
    for one in (waits, runs, runs):
        bridge.cancel(one)
    assert bridge.num_waiting == 0
    assert bridge.take(1, is_idle=False) == Arrived([], [0, 0])
    bridge.deliver(0, 5)
    assert events == [] and bridge.num_running == 0
    bridge.cancel(runs)  # when it is done, nothing happens
    assert bridge.take(1, is_idle=False) == Arrived()


def test_a_full_queue_takes_none_of_several(bridge: Bridge) -> None:
    events = list[Event]()
    bridge.submit([ticket(events)] * 2)
    with pytest.raises(Busy, match="3 requests wait already; try again later"):
        bridge.submit([ticket(events)] * 2)
    assert bridge.num_waiting == 2


def test_an_end_finishes_what_runs_and_refuses_the_rest(bridge: Bridge) -> None:
    running, waiting = list[Event](), list[Event]()
    bridge.submit([ticket(running), ticket(waiting)])
    bridge.take(1, is_idle=True)
    bridge.close(60)
    assert bridge.take(8, is_idle=False) == Arrived()
    assert isinstance(waiting[0], UserError)
    with pytest.raises(Busy, match="ending"):
        bridge.submit([ticket(waiting)])
    bridge.deliver(0, 9)
    assert running == [9] and bridge.take(8, is_idle=True) is None


def test_an_end_that_lasts_too_long_drops_what_runs(bridge: Bridge) -> None:
    bridge.submit([ticket([])])
    bridge.take(1, is_idle=True)
    bridge.close(-1)
    assert bridge.take(8, is_idle=False) == Arrived([], [0])
    assert bridge.take(8, is_idle=True) is None


def test_an_idle_rank_wakes_up_for_work_and_for_the_end(bridge: Bridge) -> None:
    asked = ticket([])
    threading.Timer(0.05, bridge.submit, [[asked]]).start()
    assert bridge.take(8, is_idle=True) == Arrived([asked.request], [])
    bridge.deliver(0, 9)
    threading.Timer(0.05, bridge.close, [1]).start()
    assert bridge.take(8, is_idle=True) is None


def test_a_request_without_a_next_token_fails_alone(bridge: Bridge) -> None:
    first, second = list[Event](), list[Event]()
    bridge.submit([ticket(first), ticket(second)])
    bridge.take(8, is_idle=True)
    bridge.fail(0, UserError("scores are no numbers"))
    bridge.deliver(1, 9)
    assert str(first[0]) == "scores are no numbers" and second == [9]
