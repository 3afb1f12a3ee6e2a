"""Try malformed input by the thousand: python tests/fuzz [--cases 1000] [--seed 1] [--kind gguf] [--case 17]

A case is clean when its command gives a right answer, or one line and status 2. Every other one is shown with the
line that repeats it, and its files are kept. The status is 1 when there is one.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]

import bases  # noqa: E402
import copying  # noqa: E402
import kinds  # noqa: E402


def main() -> int:
    """The exit status."""
    options, outcomes = parse_arguments(), os.environ.get("MPI_SPP_TEST_OUTCOMES")
    with tempfile.TemporaryDirectory(prefix="mpi-spp-fuzz-", dir=copying.folder_for_rooms()) as directory:
        bases.set_environment(Path(directory))
        from fuzzer import Fuzzer
        from report import Report

        bases.build(Path(directory))
        bases.warm_up(Path(directory))
        copying.make_cheap()
        report = Report(options.seed, outcomes)
        fuzzer = Fuzzer(Path(directory), options.seed, options.keep, options.edits)
        report.show(fuzzer.run(chosen(options), options.jobs))
    return report.end()


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="tests/fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="how many, spread over the kinds (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="without so many before them: a piece of a longer run")
    seed = int(os.environ.get("MPI_SPP_TEST_SEED", 1))
    parser.add_argument("--seed", type=int, default=seed, help=f"by which they are drawn (default: {seed})")
    parser.add_argument("--kind", choices=kinds.names(), action="append", help="these kinds alone")
    parser.add_argument("--case", type=int, help="this one of a kind alone")
    parser.add_argument(
        "--edits", type=lambda text: [int(one) for one in text.split(",")], help="these of its changes alone"
    )
    parser.add_argument("--jobs", type=int, default=2, help="so many at once (default: 2)")
    keep = Path(tempfile.gettempdir()) / "mpi-spp-fuzz"
    parser.add_argument("--keep", type=Path, default=keep, help=f"where files of unclean cases stay (default: {keep})")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Cases by kind and number, the kinds in turn."""
    names = options.kind or kinds.names()
    if options.case is not None:
        return [(name, options.case) for name in names]
    return kinds.in_turn(names, options.first, options.cases)


if __name__ == "__main__":
    sys.exit(main())
