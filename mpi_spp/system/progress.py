"""Long work that shows itself on standard error: a bar on a terminal, else a line every few seconds."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS = 5.0  # between two lines; what is done sooner shows none
_HELD_BACK_SECONDS = 1.0  # steps of work that fails as soon are not shown
_BAR_AFTER_SECONDS = 0.5
_SILENCE_SECONDS = 1.0  # that need no word
_BAR_OF_A_SHARE = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"


class Progress:
    """Something of which parts are done one after another. What is done soon shows nothing.

    Use it in a `with`, or call `close`. `stderr` is looked up once: a library's noise may be redirected later.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str | None,
        shows: bool = True,
        done: float = 0,
        file: TextIO | None = None,
    ) -> None:
        """`unit`: what `total` counts; None: the whole, of which shares are done. `done`: what was there before."""
        self._what, self._total, self._unit, self._shows = what, total, unit, shows
        self._first = self._done = done
        self._file = file or sys.stderr
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        if shows and self._file.isatty():
            form = {"bar_format": _BAR_OF_A_SHARE} if unit is None else {"unit": unit}
            common = {"initial": done, "file": self._file, "delay": _BAR_AFTER_SECONDS, "leave": False}
            self._bar = tqdm(desc=what, total=total, **common, **form)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def advance(self, count: float = 1) -> None:
        """So much more is done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shows and (now := time.monotonic()) - self._said >= _SECONDS:
            self._said = now
            print(f"mpi-spp: {self._line(now)}", file=self._file, flush=True)

    def write(self, line: str) -> None:
        """Show a line above the bar."""
        if self._bar is not None:
            tqdm.write(line, file=self._file)
        else:
            print(line, file=self._file, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, now: float) -> str:
        share, of = f"{self._done / self._total:.0%}", f"{self._done} of {self._total} {self._unit}s"
        new, spent = self._done - self._first, now - self._began
        left = f", about {_duration(spent / new * (self._total - self._done))} left" if new else ""
        return f"{self._what}: {share if self._unit is None else of} in {_duration(spent)}{left}"


class Steps:
    """Work in named steps: a line for each, or a bar, and how far it is. For functions that call back.

    Where there are only lines, none is shown of work that fails in its first second: the error says it all.
    """

    def __init__(self) -> None:
        self._file, self._step, self._done = sys.stderr, "", 0.0
        self._progress: Progress | None = None
        self._began, self._held_back = time.monotonic(), list[str]()

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._show()
        self.close()

    def __call__(self, step: str, done: float) -> None:
        """So much of this step is done, from 0 to 1."""
        if step != self._step:
            self.close()
            self._step, self._done = step, 0.0
            self._progress = Progress(step, 1.0, None, file=self._file)
            if not self._file.isatty():
                self._held_back.append(step)
        if time.monotonic() - self._began > _HELD_BACK_SECONDS:
            self._show()
        assert self._progress is not None
        self._progress.advance(done - self._done)
        self._done = done

    def _show(self) -> None:
        for line in self._held_back:
            print(line, file=self._file, flush=True)
        self._held_back.clear()

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.close()


@contextmanager
def announced(doing: str, shows: bool = True) -> Iterator[None]:
    """Say what is being done, where that lasts: of work whose parts cannot be counted."""
    timer = threading.Timer(_SILENCE_SECONDS, _say, [doing, sys.stderr])
    timer.daemon = True
    if shows:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(doing: str, file: TextIO) -> None:
    print(f"mpi-spp: {doing} ...", file=file, flush=True)


def track(items: Sequence[T], what: str, unit: str, shows: bool = True) -> Iterator[T]:
    """Go through the items, each of which is work."""
    with Progress(what, len(items), unit, shows) as progress:
        for item in items:
            yield item
            progress.advance()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
