"""The clock of a run."""

import time


class Clock:
    """Named moments of one rank, in seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.moments: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start

    def mark(self, name: str) -> None:
        """Note that this moment is now."""
        self.moments[name] = self.now()
