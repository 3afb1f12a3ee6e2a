"""News of every rank reaches every other in few steps, and never outlives the rank."""

import math

import pytest

from mpi_spp.comm.liveness.gossip import Hearsay, Word, listeners

SIZES = [2, 3, 4, 5, 6, 7, 8, 31, 64, 100]


def speak(ranks: list[Hearsay], silent: set[int], works: set[int], now: float) -> list[int]:
    """All others speak at once, and hear then; how many words of work each heard."""
    size = len(ranks)
    said = {rank: ranks[rank].tell(rank in works) for rank in range(size) if rank not in silent}
    found = [0] * size
    for rank, words in said.items():
        for other in listeners(rank, size):
            if other not in silent:
                found[other] += ranks[other].hear(words, now)
    return found


def job(size: int) -> list[Hearsay]:
    return [Hearsay(rank, size) for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_each_speaks_to_few_others(size: int) -> None:
    for rank in range(size):
        told = listeners(rank, size)
        assert len(set(told)) == len(told) == math.ceil(math.log2(size)) and rank not in told


@pytest.mark.parametrize("size", SIZES)
def test_all_hear_of_all_within_the_steps_of_a_tree(size: int) -> None:
    ranks, works = job(size), {size - 1}
    steps = math.ceil(math.log2(size))
    counted = [sum(of_rank) for of_rank in zip(*(speak(ranks, set(), works, now) for now in range(steps)), strict=True)]
    for rank, hearsay in enumerate(ranks):
        heard = {other: word.works for other, word in enumerate(hearsay.heard) if word is not None}
        assert heard == {other: other in works for other in range(size) if other != rank}
        assert (counted[rank] > 0) == (rank not in works)


@pytest.mark.parametrize("size", [size for size in SIZES if size > 3])
def test_a_lost_rank_grows_silent_and_cuts_nobody_off(size: int) -> None:
    ranks, lost = job(size), 1
    for now in range(10):
        speak(ranks, set(), {lost}, now)
    found = [speak(ranks, {lost}, set(), now) for now in range(10, 40)]
    assert not any(map(sum, found[10:])), "its last word goes round for ever"
    for rank in set(range(size)) - {lost}:
        word = ranks[rank].heard[lost]
        assert word is not None and word.works and word.at < 10 + 2 * math.ceil(math.log2(size))
        assert all(ranks[rank].heard[other] == Word(False, 39) for other in range(size) if other not in (lost, rank))


def test_an_old_word_is_no_news() -> None:
    speaker, listener = job(2)
    old = speaker.tell(True)
    new = speaker.tell(False)
    assert listener.hear(new, 1.0) == 0 and listener.heard[0] == Word(False, 1.0)
    assert listener.hear(old, 2.0) == 0 and listener.heard[0] == Word(False, 1.0)
