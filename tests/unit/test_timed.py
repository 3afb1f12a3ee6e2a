"""What is timed while somebody keeps it, and only then."""

from mpi_spp.system.timed import TimedWork, keeping_timed, timed


def test_the_inner_ends_before_the_outer() -> None:
    kept: list[TimedWork] = []
    with keeping_timed(kept.append), timed("chunk", 2, tokens=128), timed("layer", 0):
        pass
    assert [(name, number, facts) for name, number, facts, _, _ in kept] == [
        ("layer", 0, {}),
        ("chunk", 2, {"tokens": 128}),
    ]
    (_, _, _, *inner), (_, _, _, *outer) = kept
    assert outer[0] <= inner[0] <= inner[1] <= outer[1]


def test_nothing_is_kept_afterwards() -> None:
    kept: list[TimedWork] = []
    with keeping_timed(kept.append):
        pass
    with timed("layer", 0):
        pass
    assert kept == []


def test_untimed_work_makes_nothing() -> None:
    """It stands in the way of every layer of every token."""
    assert timed("layer", 0) is timed("step", 1, sequences=2)
