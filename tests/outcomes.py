"""What came of the parts of the tests: counted from the lines that the tests write, and shown."""

from collections.abc import Iterator
from dataclasses import dataclass

SLOWEST = 20  # tests to name at the end
LONG_SECONDS = 20.0  # for which a test's docstring gives a reason: "Takes long: ..."


@dataclass(frozen=True)
class Result:
    """What came of a part."""

    name: str
    counts: tuple[int, int, int]  # passed, failed, skipped
    seconds: float
    tests: tuple["Took", ...] = ()


@dataclass(frozen=True)
class Took:
    """How long a test took, and whether its docstring says why."""

    seconds: float
    name: str
    excused: bool


def lint_count(succeeded: bool) -> tuple[int, int, int]:
    """A check is one test."""
    return (1, 0, 0) if succeeded else (0, 1, 0)


def count(outcomes: str, succeeded: bool, is_selection: bool) -> tuple[int, int, int]:
    """Passed, failed and skipped tests, from lines of outcome, test's name and seconds; a test's worst outcome counts.

    A process that dies counts as the failure of the test that was running, and one that runs no test is a failure.
    """
    order = ("excused", "running", "passed", "skipped", "failed")
    worst: dict[str, str] = {}
    for line in outcomes.splitlines():
        outcome, name, _ = line.split("\t")
        worst[name] = max(outcome, worst.get(name, "running"), key=order.index)
    found = list(worst.values())
    passed, failed, skipped, running = (found.count(name) for name in ("passed", "failed", "skipped", "running"))
    if not failed:
        for name in (name for name, outcome in worst.items() if outcome == "running"):
            print(f"==== {name}: did not end", flush=True)
        failed = running or int(not succeeded)
    if passed + failed == 0 and not is_selection:
        print("==== no test was run", flush=True)
        failed = 1
    return passed, failed, skipped


def times(outcomes: str, part: str) -> Iterator[Took]:
    """What each test took, with all that was set up for it."""
    seconds, excused = dict[str, float](), set[str]()
    for line in outcomes.splitlines():
        outcome, name, spent = line.split("\t")
        seconds[name] = seconds.get(name, 0.0) + float(spent)
        excused |= {name} if outcome == "excused" else set()
    yield from (Took(spent, f"{part}: {name}", name in excused) for name, spent in seconds.items())


def print_slowest(results: list[Result]) -> None:
    """The slowest tests of all parts, and those that should say why they are."""
    slowest = sorted((one for row in results for one in row.tests), key=lambda one: -one.seconds)
    if slowest:
        print("\nslowest tests")
    for one in slowest[:SLOWEST]:
        print(f"{one.seconds:7.1f} s  {one.name}")
    for one in slowest:
        if one.seconds > LONG_SECONDS and not one.excused:
            print(f'==== {one.name}: took {one.seconds:.0f} s, and its docstring does not say why: "Takes long: ..."')


def print_table(results: list[Result]) -> None:
    """One row a part."""
    print(f"\n{'part':30} {'passed':>7} {'failed':>7} {'skipped':>7} {'seconds':>8}")
    for row in results:
        passed, failed, skipped = row.counts
        print(f"{row.name:30} {passed:7} {failed:7} {skipped:7} {row.seconds:8.1f}")
