"""Makes cases from a seed, runs each in a copy of this process, and makes those that are not clean smaller."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import child
import kinds
import oracle
import verdict
from case import Case, Outcome, Room
from rendering import Renderer

_MOST_KEPT = 200  # folders of unclean cases
_MOST_KEPT_ALIKE = 2


@dataclass(frozen=True)
class Result:
    """What is known of a case when it has run."""

    kind: str
    number: int
    edits: list[int] | None
    told: str
    faults: list[str]
    kept: str | None = None
    status: int | None = 0

    @property
    def signature(self) -> str:
        """What unclean cases of one cause have in common."""
        first = self.faults[0]
        shown = {"traceback": 200, "wrong": 60, "words": 60, "status": 60}.get(first.split(":")[0], 0)
        return f"{self.kind}: {first.split(':')[0]}{re.sub(r'[0-9]+', '', first.partition(':')[2][:shown])}"


class Fuzzer:
    """Runs cases. `edits`: only these of a case's changes."""

    def __init__(
        self, bases: Path, seed: int, keep: Path, edits: list[int] | None = None, limits: child.Limits | None = None
    ) -> None:
        self._bases, self._seed, self._keep, self._edits = bases, seed, keep, edits
        self._limits = limits or child.Limits()
        self._idle_mib = child.run(lambda: None, self._limits)[2]
        self._kept: dict[str, int] = {}

    def run(self, cases: Sequence[tuple[str, int]], jobs: int) -> Iterator[Result]:
        """Results of cases, given by kind and number: so many at once, each job a copy of this process."""
        reading, writing = os.pipe()
        for job in range(jobs):
            if os.fork() == 0:
                with os.fdopen(writing, "w") as pipe:
                    self._work(cases[job::jobs], pipe)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                yield Result(**json.loads(line))
        for _ in range(jobs):
            os.wait()

    def _work(self, cases: Sequence[tuple[str, int]], pipe) -> None:  # noqa: ANN001 (a text stream)
        renderer = Renderer()
        for kind, number in cases:
            try:
                renderer.ready()
                result = self.one(kind, number)
            except Exception:  # of the fuzzer's own
                result = Result(kind, number, None, "", [f"fuzzer: {traceback.format_exc()[-500:]}"])
            pipe.write(json.dumps(asdict(result)) + "\n")  # shorter than what a pipe takes at once
            pipe.flush()
            if result.faults:
                renderer.end()  # there may be an answer in it that nobody waits for
        renderer.end()

    def one(self, kind: str, number: int) -> Result:
        """One case; where it is not clean, the smallest of its changes that is so in the same way."""
        result = self._try(kind, number, self._edits)
        count = num_edits(self._seed, kind, number)
        if result.faults and self._edits is None and count > 1:
            for edit in range(count):
                smaller = self._try(kind, number, [edit])
                if smaller.faults and smaller.faults[0].split(":")[0] == result.faults[0].split(":")[0]:
                    return self._keep_it(smaller)
            self._try(kind, number, None)  # its files are to be kept
        return self._keep_it(result)

    def _try(self, kind: str, number: int, edits: list[int] | None) -> Result:
        path = self._bases / f"case-{os.getpid()}"
        clear(path)
        room = Room(path, self._bases)
        case = self._make(room, kind, number, edits)
        is_good = num_edits(self._seed, kind, number) == 0
        if is_good:
            case.statuses = (0,)
        outcome = child.run_case(case, room, self._limits, program, self._idle_mib)
        faults = verdict.faults_of(case, outcome, self._limits)
        if not faults and outcome.status == 0 and case.oracle is not None:
            faults = self._ask(case, outcome, room, is_good)
        if faults:
            self._note(room, case, outcome, faults)
        told = "; ".join(case.told).replace(str(path), "ROOM") or "nothing changed"
        return Result(kind, number, edits, told[:600], [fault[:600] for fault in faults], None, outcome.status)

    def _make(self, room: Room, kind: str, number: int, edits: list[int] | None) -> Case:
        count = num_edits(self._seed, kind, number)
        draws = [
            Random(f"{self._seed}/{kind}/{number}/{edit}") for edit in range(count) if edits is None or edit in edits
        ]
        return kinds.load(kind).make(room, Random(f"{self._seed}/{kind}/{number}"), draws)

    def _ask(self, case: Case, outcome: Outcome, room: Room, is_good: bool) -> list[str]:
        """What transformers says of an answer; of a changed model nothing where it refuses that, or does not end."""
        answer = room.path / "oracle"

        def work() -> None:
            assert case.oracle is not None
            with (room.path / "words").open("w") as words:
                for number in (1, 2):
                    os.dup2(words.fileno(), number)
            os.environ.update(room.variables())
            answer.write_text(case.oracle(outcome) or "")

        child.run(work, self._limits)
        found = answer.read_text() if answer.exists() else f"{oracle.REFUSES}: it does not end"
        if found.startswith(oracle.REFUSES) and not is_good:
            return []
        return [f"wrong: {found}"] if found else []

    def _note(self, room: Room, case: Case, outcome: Outcome, faults: list[str]) -> None:
        facts = {"words": case.words, "variables": case.variables, "told": case.told, "faults": faults}
        facts |= {"status": outcome.status, "stderr": outcome.stderr[:20_000], "stdout": repr(outcome.stdout[:2000])}
        (room.path / "case.json").write_text(json.dumps(facts, indent=1))

    def _keep_it(self, result: Result) -> Result:
        """Move an unclean case's folder out of the way of the next, but of many alike only some."""
        if not result.faults:
            return result
        alike = self._kept.get(result.signature, 0)
        self._kept[result.signature] = alike + 1
        if alike >= _MOST_KEPT_ALIKE or len(self._kept) > _MOST_KEPT:
            return result
        folder = self._keep / f"{result.kind}-{self._seed}-{result.number}"
        clear(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", self._bases / f"case-{os.getpid()}", folder], check=True)  # FIFOs and holes, too
        return Result(**{**asdict(result), "kept": str(folder)})


def program() -> None:
    """What `mpi-spp` runs, in a copy of a job."""
    from mpi_spp.cli import main

    Renderer.lend()
    main()


def num_edits(seed: int, kind: str, number: int) -> int:
    """How many changes a case has: mostly one; the first of every kind has none."""
    return 0 if number == 0 else Random(f"{seed}/{kind}/{number}/count").choice((1, 1, 1, 1, 2, 2, 3))


def clear(path: Path) -> None:
    """Take a folder away, whatever a case made in it."""
    if path.exists():
        with contextlib.suppress(OSError):
            (path / "work" / "readonly").chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
