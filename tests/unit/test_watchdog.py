"""When a wait ends the job, and what is said: without MPI and without waiting."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from mpi_spp.comm.environment import DEBUG_RANK, limit
from mpi_spp.comm.liveness.gossip import Word
from mpi_spp.comm.liveness.watchdog import Finding, Watchdog
from mpi_spp.comm.operation import Operation

TIMEOUT = 10


def receive(nbytes: int = 100) -> Operation:
    return Operation("receive", "replica", (1,), nbytes, tag=7)


def life(**state: Any) -> Any:
    """Rank 2 of 4, which has heard rank 0 wait."""
    heard = [Word(False, time.monotonic()), None, None, None]
    common = {"rank": 2, "size": 4, "hosts": ["a", "b", "b", "b"], "waits_for": None, "heard": heard}
    common |= {"completed_here": 0, "worked_elsewhere": 0}
    return SimpleNamespace(**(common | {"listened_at": time.monotonic()} | state))


def look(watchdog: Watchdog, seconds: int) -> list[Finding]:
    """Once a second."""
    return [finding for finding in (watchdog.look(1.0) for _ in range(seconds)) if finding is not None]


def test_a_wait_in_vain_ends_the_job_after_the_timeout() -> None:
    watchdog = Watchdog(life(waits_for=receive()), TIMEOUT)
    assert look(watchdog, TIMEOUT) == []
    (found,) = look(watchdog, 1)
    assert found.is_end and "\n" not in found.line
    assert found.line.startswith("mpi-spp: error: rank 2 (b) has waited 10 s, since ")
    assert ", for rank 1 (b) in receive (replica, tag 7, 100 bytes); " in found.line
    assert "nothing is heard of ranks 1, 3 (b); " in found.line
    assert "--timeout" in found.line


def test_who_waits_for_nothing_says_nothing() -> None:
    assert look(Watchdog(life(), TIMEOUT), 10 * TIMEOUT) == []


def test_every_wait_has_its_own_time() -> None:
    """Many short waits, of the same kind and for the same rank, are no long one."""
    state = life()
    watchdog = Watchdog(state, TIMEOUT)
    for _ in range(5):
        state.waits_for = receive()
        assert look(watchdog, TIMEOUT - 1) == []


def test_what_moves_keeps_a_wait_alive_which_is_told_of() -> None:
    now = time.monotonic()
    state = life(waits_for=receive(), rank=0, heard=[None, Word(False, now), None, Word(True, now)])
    watchdog, found = Watchdog(state, TIMEOUT), []
    for _ in range(3 * TIMEOUT // 5 + 1):
        state.worked_elsewhere += 1
        found += look(watchdog, 5)
    assert [finding.is_end for finding in found] == [False] * 3
    assert "has waited 20 s" in found[1].line and "rank 3 at work; " in found[1].line
    assert look(watchdog, TIMEOUT)[-1].is_end, "nothing moves any more"


@pytest.mark.parametrize("rank, tells", [(0, True), (2, False)])
def test_of_a_long_wait_the_first_rank_tells(rank: int, tells: bool) -> None:
    """Rank 0 waits, too."""
    state = life(waits_for=receive(), rank=rank)
    watchdog = Watchdog(state, TIMEOUT)
    look(watchdog, TIMEOUT)
    state.completed_here += 1
    assert len(look(watchdog, 1)) == tells


def test_who_waits_for_a_lost_rank_does_not_hope_because_another_works() -> None:
    state = life(waits_for=receive(), heard=[Word(True, time.monotonic()), None, None, None])
    watchdog, found = Watchdog(state, TIMEOUT), []
    for _ in range(TIMEOUT + 1):
        state.worked_elsewhere += 1
        found += look(watchdog, 1)
    assert [finding.is_end for finding in found] == [True]
    assert "; rank 0 at work; nothing is heard of ranks 1, 3 (b); " in found[0].line


@pytest.mark.parametrize("rank, seconds", [(0, TIMEOUT), (2, TIMEOUT + 3)])
def test_who_works_misses_a_lost_rank(rank: int, seconds: int) -> None:
    """Of two that work the first says so, and who waits for it before them. Rank 3 has never spoken: it starts."""
    old, now = time.monotonic() - 6, time.monotonic()
    heard = [None if rank == 0 else Word(True, now), Word(True, old), Word(True, now), None]
    watchdog = Watchdog(life(rank=rank, heard=heard), TIMEOUT)
    assert look(watchdog, seconds - 1) == []
    (found,) = look(watchdog, 1)
    assert found.is_end and "--timeout" in found.line
    assert f"error: nothing has been heard of rank 1 (b) for 10 s or more, while rank {rank} works; " in found.line
    heard[2 - rank] = Word(False, now)
    assert look(Watchdog(life(rank=rank, heard=heard), TIMEOUT), TIMEOUT + 2) == []


def test_a_rank_that_is_heard_again_was_not_lost() -> None:
    state = life(heard=[Word(True, time.monotonic() - 6), None, None, None])
    watchdog = Watchdog(state, TIMEOUT)
    for _ in range(5):
        assert look(watchdog, TIMEOUT - 1) == []
        state.heard = [Word(True, time.monotonic()), None, None, None]
        watchdog.look(1.0)
        state.heard = [Word(True, time.monotonic() - 6), None, None, None]


def test_a_large_message_may_take_as_long_as_on_a_slow_link() -> None:
    watchdog = Watchdog(life(waits_for=receive(nbytes=300_000_000)), TIMEOUT)
    assert not any(finding.is_end for finding in look(watchdog, 40))
    assert look(watchdog, 1)[-1].is_end


def test_time_in_which_this_process_was_stopped_itself_does_not_count() -> None:
    """The whole job may have been suspended."""
    watchdog = Watchdog(life(waits_for=receive()), TIMEOUT)
    assert look(watchdog, 2) == []
    assert watchdog.look(3600.0) is None


def test_who_was_inside_mpi_accuses_nobody() -> None:
    old = time.monotonic() - 100
    watchdog = Watchdog(life(waits_for=receive(), listened_at=old, heard=[Word(False, old)] * 4), TIMEOUT)
    (found,) = look(watchdog, TIMEOUT + 1)
    assert found.is_end and "nothing is heard" not in found.line and "every rank" not in found.line


def test_a_deadlock_is_called_one() -> None:
    now = time.monotonic()
    watchdog = Watchdog(life(waits_for=receive(), heard=[Word(False, now)] * 2 + [None] + [Word(False, now)]), TIMEOUT)
    assert "every rank waits, none works" in look(watchdog, TIMEOUT + 1)[0].line


def test_another_run_of_this_process_may_have_another_limit() -> None:
    watchdog = Watchdog(life(waits_for=receive()), TIMEOUT)
    watchdog.set_limit(0)
    assert look(watchdog, 100 * TIMEOUT) == []
    watchdog.set_limit(3)
    assert look(watchdog, 1)[-1].is_end


def test_a_debugger_may_hold_a_rank_for_as_long_as_it_likes() -> None:
    assert (limit(60, {}), limit(60, {DEBUG_RANK: "1"})) == (60, 0)
