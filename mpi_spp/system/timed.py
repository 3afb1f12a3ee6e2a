"""What a rank does, timed under a name: kept while a run is traced, next to nothing while it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter_ns
from typing import Any

# The name, which one of that name, facts, start and end.
TimedWork = tuple[str, "int | None", dict[str, Any], int, int]

# Names that say when and not what: time in them that no other name has is no work.
PHASES = frozenset({"load", "prefill", "sync"})

_keep: Callable[[TimedWork], object] | None = None
_untimed = nullcontext()


def timed(name: str, number: int | None = None, **facts: Any) -> AbstractContextManager[None]:
    """Open while this rank does what the name says. They lie one within another; none is open across a `yield`."""
    return _untimed if _keep is None else _Open(_keep, name, number, facts)


def is_kept() -> bool:
    """Whether what is timed is of use to anybody."""
    return _keep is not None


@contextmanager
def keeping_timed(keep: Callable[[TimedWork], object]) -> Iterator[None]:
    """Hand on all that is timed when it ends, with its times of `time.perf_counter_ns`."""
    global _keep
    _keep = keep
    try:
        yield
    finally:
        _keep = None


class _Open:
    __slots__ = ("_facts", "_keep", "_name", "_number", "_start")

    def __init__(
        self, keep: Callable[[TimedWork], object], name: str, number: int | None, facts: dict[str, Any]
    ) -> None:
        self._keep, self._name, self._number, self._facts = keep, name, number, facts

    def __enter__(self) -> None:
        self._start = perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._keep((self._name, self._number, self._facts, self._start, perf_counter_ns()))
