"""What a session of the fuzzer prints: unclean cases as they come, then a table of kinds."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from fuzzer import Result

_MOST_SHOWN_ALIKE = 2


class Report:
    """Counts and shows. `outcomes`: a file that tests/run.py reads, with a line for each kind."""

    def __init__(self, seed: int, outcomes: str | None) -> None:
        self._seed, self._outcomes = seed, outcomes
        self._began = time.monotonic()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._alike: Counter[str] = Counter()

    def show(self, results: Iterable[Result]) -> None:
        """Take all results."""
        for result in results:
            kind = "unclean" if result.faults else "refused" if result.status == 2 else "answered"
            self._counts[result.kind][kind] += 1
            if result.faults:
                self._show(result)

    def _show(self, result: Result) -> None:
        self._alike[result.signature] += 1
        if self._alike[result.signature] > _MOST_SHOWN_ALIKE:
            return
        edits = "" if result.edits is None else f" --edits {','.join(map(str, result.edits))}"
        print(f"UNCLEAN {result.kind} {result.number}: {ascii(result.told)[1:-1]}")
        for fault in result.faults:
            print(f"    {ascii(fault)[1:-1]}")
        print(
            f"    python tests/fuzz --seed {self._seed} --kind {result.kind} --case {result.number}{edits}", flush=True
        )
        if result.kept:
            print(f"    {result.kept}", flush=True)

    def end(self) -> int:
        """The table, and the exit status."""
        print(f"{'kind':20} {'refused':>8} {'answered':>9} {'unclean':>8}")
        for kind in sorted(self._counts):
            counts = self._counts[kind]
            print(f"{kind:20} {counts['refused']:8} {counts['answered']:9} {counts['unclean']:8}")
        unclean = sum(counts["unclean"] for counts in self._counts.values())
        for signature, count in self._alike.most_common():
            print(f"{count:6} times {ascii(signature)[1:-1][:160]}")
        total = sum(counts.total() for counts in self._counts.values())
        seconds = time.monotonic() - self._began
        print(f"{total} cases of seed {self._seed}, {unclean} not clean, {seconds:.0f} s", flush=True)
        self._tell(seconds)
        return 1 if unclean or not total else 0

    def _tell(self, seconds: float) -> None:
        if self._outcomes is None:
            return
        with Path(self._outcomes).open("a") as file:
            for kind, counts in sorted(self._counts.items()):
                word = "failed" if counts["unclean"] else "passed"
                file.write(f"{word}\ttests/fuzz {kind}: {counts.total()} cases\t{seconds / len(self._counts):.3f}\n")
