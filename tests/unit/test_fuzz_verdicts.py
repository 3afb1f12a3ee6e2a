"""What the fuzzer calls clean, and what it does not."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

import child
import kinds
import known
import oracle
import verdict
from case import Case, Outcome, Room

LIMITS = child.Limits(cpu_seconds=0.5, mib=50, wall_seconds=2.0, cpu_seconds_to_end=3)
LINE = "mpi-spp: error: --seed: must be at least 0, got -1; give another"


def refuses(line: str = LINE, status: int = 2) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(status)


def raises() -> None:
    raise ValueError("of no use")


def ends_beside(path: str) -> None:
    Path(os.environ["TMPDIR"], path).write_text("left")
    refuses()


def never_ends() -> None:
    time.sleep(60)


def computes() -> None:
    began = time.process_time()
    while time.process_time() < began + 0.6:
        pass


def takes(mib: int) -> None:
    bytearray(mib * 2**20)


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    bases = tmp_path_factory.mktemp("bases")
    (bases / "cache").mkdir()
    return Room(bases / "case", bases)


@pytest.mark.parametrize(
    "program, fault",
    [
        (refuses, None),
        (lambda: print("an answer", flush=True), None),
        (raises, "traceback"),
        (never_ends, "hang"),
        (computes, "slow"),
        (lambda: takes(100), "memory"),
        (kills_itself, "died"),
        (lambda: refuses(status=1), "status"),
        (lambda: refuses("Warning: x\n" + LINE), "lines"),
        (lambda: refuses("mpi-spp: error: it is wrong"), "names"),
        (lambda: refuses(LINE + "\x1b[31m"), "control"),
        (lambda: refuses(LINE + "x" * 600), "long"),
        (lambda: (print("half an answer", flush=True), refuses()), "stdout"),  # type: ignore[func-returns-value]
        (lambda: print("FutureWarning: x", file=sys.stderr), "words"),
        (lambda: ends_beside("file"), "left"),
    ],
)
def test_what_a_command_may_do(program: Callable[[], None], fault: str | None, room: Room) -> None:
    def on_descriptors() -> None:  # those of the session are pytest's
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        program()

    limits = replace(LIMITS, wall_seconds=0.2) if fault == "hang" else LIMITS
    idle_mib = child.run(lambda: None, limits)[2]
    case = Case(["generate"], names=("--seed",))
    faults = verdict.faults_of(case, child.run_case(case, room, limits, on_descriptors, idle_mib), limits)
    found = [one.split(":")[0] for one in faults]
    assert found == [] if fault is None else fault in found


def outcome(status: int | None, stdout: str = "", stderr: str = "", seconds: float = 0.1, mib: float = 1.0) -> Outcome:
    return Outcome(status, stdout.encode(), stderr, seconds, mib, [])


@pytest.mark.parametrize(
    "came, fault",
    [
        (outcome(0, seconds=5), None),
        (outcome(None), None),
        (outcome(-9, seconds=9), None),
        (outcome(2, stderr=f"mpi-spp: trying kernels ...\n{LINE}"), None),
        (outcome(2, stderr=f"Warning ...\n{LINE}"), "lines"),
        (outcome(1, stderr="Traceback (most recent call last):\nValueError: x", seconds=5), "traceback"),
        (outcome(0, "wrong", seconds=5), "wrong"),
        (outcome(None, mib=2000), "memory"),
        (outcome(-11, seconds=5), "died"),
    ],
)
def test_what_may_last_is_right_all_the_same(came: Outcome, fault: str | None) -> None:
    case = Case(["bench"], may_last=True, check=lambda outcome: outcome.stdout.decode() or None)
    assert [one.split(":")[0] for one in verdict.faults_of(case, came, LIMITS)] == ([] if fault is None else [fault])


@pytest.mark.parametrize("text, is_clean", [('{"a": 1.5}', True), ('{"a": NaN}', False), ("{", False)])
def test_json_is_finite(text: str, is_clean: bool) -> None:
    assert (verdict.is_finite_json(outcome(0, text)) is None) == is_clean


@pytest.mark.parametrize(
    "tokens, reason, gaps, is_clean",
    [
        ([5, 6, 7], "length", (1, 1, 1), True),
        ([5, 6, 8], "length", (1, 1, 1), False),
        ([5, 8, 9], "length", (1, 1e-5, 1), True),
        ([5, 6], "length", (1, 1, 1), True),
        ([5, 6], "stop", (1, 1, 1), False),
        ([5, 6, 7, 8], "length", (1, 1, 1), False),
    ],
)
def test_tokens_are_those_of_transformers(tokens: list[int], reason: str, gaps: Any, is_clean: bool) -> None:
    answer = {"token_ids": tokens, "finish_reason": reason}
    assert (oracle.difference(answer, [5, 6, 7], list(gaps)) is None) == is_clean


def good_answers(room: Room) -> dict[int, dict[str, Any]]:
    """Of the lines of the first batch, which nobody changed."""
    told = {name: {"tokens": [1, 2, 3, 4, place], "gaps": [1.0] * 5} for place, name in enumerate(("hi", "x", "ids"))}
    (room.bases / "known.json").write_text(json.dumps(told))
    batch = kinds.load("batch_lines")
    names = {json.dumps(line): name for line, name in zip(batch._LINES, ("hi", "ids", "hi", "hi", "x"), strict=True)}
    found = {}
    for number, line in enumerate((room.work / "in.jsonl").read_text().splitlines(), 1):
        if line:
            tokens = told[names[line]]["tokens"][: json.loads(line).get("max_new_tokens", 5)]
            found[number] = {"line": number, "token_ids": tokens, "finish_reason": "length"}
    return found


@pytest.mark.parametrize("what", ["good", "other tokens", "missing", "skipped", "nan"])
def test_answers_of_a_batch(what: str, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "cache").mkdir()
    room = Room(tmp_path / "case", tmp_path)
    case = kinds.load("batch_lines").make(room, Random(3), [])
    answers = good_answers(room)
    last = max(answers)
    changed = {
        "other tokens": {"line": last, "token_ids": [7] * 5, "finish_reason": "length"},
        "skipped": {"line": last, "error": "is empty"},
        "nan": answers[last] | {"id": float("nan")},
    }
    answers |= {last: changed[what]} if what in changed else {}
    if what == "missing":
        del answers[last]
    (room.work / "out" / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers.values()))
    assert case.check is not None
    assert (case.check(outcome(0, "{}")) is None) == (what == "good")


def test_an_answer_beside_the_change_is_the_known_one(room: Room) -> None:
    (room.bases / "known.json").write_text(json.dumps({"hi": {"tokens": [4], "gaps": [1.0], "text": "a"}}))
    says_it = known.says_it(room, "hi")
    told = '{\n "token_ids": [%d], "finish_reason": "length"}'
    assert says_it(outcome(0, "a\n")) is None and says_it(outcome(0, told % 4)) is None
    assert says_it(outcome(0, "b\n")) and says_it(outcome(0, "")) and says_it(outcome(0, told % 5))


@pytest.mark.parametrize(
    "text, ranks", [("node1 slots=2\nnode2 # x\n", 3), ("a:2\r\n\r\nb slots = 3", 5), ("a slots=2 b", None)]
)
def test_ranks_are_as_many_as_slots(text: str, ranks: int | None, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    check = kinds.load("hosts").slots_of(path, False)
    assert check(outcome(0, json.dumps({"ranks": [{}] * (ranks or 1)}))) is None
    assert (check(outcome(0, json.dumps({"argv": ["mpirun", "-np", "9"]}))) is None) == (ranks is None)


def test_pieces_are_those_of_the_whole() -> None:
    names = kinds.names()
    pieces = [kinds.in_turn(names, first, 7) for first in range(0, 35, 7)]
    whole = kinds.in_turn(names, 0, 35)
    assert [case for piece in pieces for case in piece] == whole and len(set(whole)) == 35


@pytest.mark.parametrize(
    "given, is_json",
    [
        (["--json", "-"], True),
        (["--json=-"], True),
        (["--json=-", "--json", "x"], False),
        (["--json", "x", "--json=-"], True),
        (["--json=-", "--trace", "-"], False),
        (["-"], False),
    ],
)
def test_json_is_looked_for_where_it_was_asked_for(given: list[str], is_json: bool) -> None:
    assert kinds.load("options").is_json(given) == is_json
