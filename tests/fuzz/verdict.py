"""Whether an outcome is clean: a right answer, or one line and status 2."""

import json
import re
import signal
from typing import Any

from case import Case, Outcome
from child import Limits

MOST_CHARACTERS = 600  # of a line: see mpi_spp/errors.py
_ENDED_FOR_TIME = (-signal.SIGXCPU, -signal.SIGKILL)
_PREFIX = "mpi-spp: error: "
_PROGRESS = re.compile(r"mpi-spp: .* \.\.\.")  # after a second of work: a busy machine's, or what may last
_WORDS_OF_LIBRARIES = re.compile(
    r"Warning|Traceback|\[transformers\]|^Exception|oneMKL|OMP: |panicked|Error in sys", re.MULTILINE
)


def faults_of(case: Case, outcome: Outcome, limits: Limits) -> list[str]:
    """What is not clean; the first word of each names its kind."""
    found = _of_costs(case, outcome, limits)
    if case.may_last:
        found = [one for one in found if one.startswith("memory")]
    if outcome.status is None or (case.may_last and outcome.status in _ENDED_FOR_TIME):
        return found
    if outcome.status < 0:
        return [*found, f"died: of signal {-outcome.status}"]
    if "Traceback (most recent call last)" in outcome.stderr:
        return [f"traceback: {where_of(outcome.stderr)}", *found]
    if outcome.status not in case.statuses:
        found.append(f"status: {outcome.status}; {_last_line(outcome.stderr)}")
    elif outcome.status == 2:
        found += _of_refusal(case, outcome)
    else:
        found += _of_answer(case, outcome)
    if outcome.left:
        found.append(f"left: {', '.join(outcome.left)[:200]}")
    return found


def _of_costs(case: Case, outcome: Outcome, limits: Limits) -> list[str]:
    found = []
    if outcome.status is None:
        found.append(f"hang: did not end within {limits.wall_seconds:.0f} s")
    elif outcome.cpu_seconds > limits.cpu_seconds * case.patience:
        found.append(f"slow: {outcome.cpu_seconds:.1f} s")
    if outcome.mib > limits.mib:
        found.append(f"memory: {outcome.mib:.0f} MiB")
    return found


def _of_refusal(case: Case, outcome: Outcome) -> list[str]:
    lines = [line for line in outcome.stderr.splitlines() if not _PROGRESS.fullmatch(line)]
    line = lines[-1] if lines else ""
    found = []
    if len(lines) != 1 or not line.startswith(_PREFIX):
        found.append(f"lines: {len(lines)} on standard error; {(lines or [''])[0][:160]}")
    elif len(line.replace("ROOM", "")) > MOST_CHARACTERS:
        found.append(f"long: {len(line)} characters; {line[:160]}")
    elif not re.search(r"\w", line[len(_PREFIX) :]):
        found.append("words: the line says nothing")
    elif case.names and not any(name in line for name in case.names):
        found.append(f"names: none of {', '.join(case.names)}; {line[:200]}")
    elif not _is_printable(line):
        found.append(f"control: {ascii(line)[:200]}")
    if outcome.stdout:
        found.append(f"stdout: {outcome.stdout[:80]!r} before a refusal")
    return found


def _is_printable(line: str) -> bool:
    return not any(ord(character) < 32 or ord(character) == 127 for character in line)


def _of_answer(case: Case, outcome: Outcome) -> list[str]:
    found = []
    words = _WORDS_OF_LIBRARIES.search(outcome.stderr)
    if words:
        line = next(line for line in outcome.stderr.splitlines() if words[0] in line)
        found.append(f"words: {line[:200]}")
    wrong = case.check(outcome) if case.check else None
    return [*found, f"wrong: {wrong}"] if wrong else found


def where_of(stderr: str) -> str:
    """The exception of a traceback, and the product's line that raised it."""
    ours = re.findall(r'File "[^"]*/(mpi_spp/[^"]+)", line (\d+), in (\w+)', stderr)
    place = "{}:{} {}".format(*ours[-1]) if ours else "?"
    return f"{place}: {_last_line(stderr)[:160]}"


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:200]


def finite_json(content: bytes) -> Any:
    """JSON without nan and infinities, which no other reader knows. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in the JSON")

    return json.loads(content, parse_constant=refuse)


def is_finite_json(outcome: Outcome) -> str | None:
    """A check of answers on standard output."""
    try:
        finite_json(outcome.stdout)
    except ValueError as error:
        return f"standard output: {error}"[:200]
    return None
