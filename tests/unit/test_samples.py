"""Benchmark samples: their middle and spread, and verdicts that know the noise."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mpi_spp.cli import commands
from mpi_spp.errors import UserError
from mpi_spp.instruments.report.samples import compare, describe, ratio_bounds


def result(**cases: list[float]) -> dict[str, Any]:
    return {"cases": [{"name": name, **describe(samples)} for name, samples in cases.items()]}


def noisy(middle: float, noise: float, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [middle * (1 + generator.uniform(-noise, noise)) for _ in range(9)]


def test_describe() -> None:
    described = describe([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (described["median"], described["min"], described["max"]) == (3.0, 1.0, 5.0)
    assert described["spread"] == pytest.approx(2 / 3)
    assert describe([7.0])["spread"] == 0


def test_the_bounds_enclose_the_ratio_and_are_the_same_every_time() -> None:
    before, after = noisy(100, 0.05, 1), noisy(90, 0.05, 2)
    low, high = ratio_bounds(before, after)
    assert low < 0.9 < high
    assert high - low < 0.2
    assert ratio_bounds(before, after) == (low, high)


@pytest.mark.parametrize(
    "middle,noise,verdict", [(80, 0.02, "slower"), (99, 0.02, "same"), (80, 0.5, "same"), (120, 0.02, "faster")]
)
def test_verdicts(middle: float, noise: float, verdict: str) -> None:
    before, after = result(a=noisy(100, noise, 1), only_before=[1.0]), result(a=noisy(middle, noise, 2), new=[1.0])
    rows = compare(before, after, tolerance=0.02)
    assert [(row["name"], row["verdict"]) for row in rows] == [("a", verdict)]


@pytest.mark.parametrize("middle,status", [(100, 0), (70, 1)])
def test_the_command_ends_with_1_on_a_regression(tmp_path: Path, middle: float, status: int) -> None:
    paths = [tmp_path / name for name in ("before.json", "after.json")]
    for path, level in zip(paths, (100, middle), strict=True):
        path.write_text(json.dumps(result(a=noisy(level, 0.01, 3))))
    ended = CliRunner().invoke(commands, ["bench", "compare", *map(str, paths), "--json", str(tmp_path / "c.json")])
    assert ended.exit_code == status, ended.output
    assert json.loads((tmp_path / "c.json").read_text())["cases"][0]["ratio"] == pytest.approx(middle / 100)


CASE = {"name": "a", "samples": [1.0], "median": 1.0}
OTHERS = [
    *({}, {"cases": 3}, {"cases": [3]}, {"cases": [{"name": "a"}]}),
    *({"cases": [CASE | {"samples": samples}]} for samples in ([], {}, 3, "ab", [0], [-1.0], ["a"], [1] * 20_000)),
    *({"cases": [CASE | {"median": odd}]} for odd in (0, None, float("nan"), float("inf"), 10**400, [])),
    *({"cases": [CASE | {"name": odd}]} for odd in (None, 3, ["a"], {})),
]


@pytest.mark.parametrize("content", OTHERS)
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    ended = CliRunner().invoke(commands, ["bench", "compare", str(path), str(path)])
    assert str(ended.exception) == f"{path}: is no result of `mpi-spp bench ... --json`"


@pytest.mark.parametrize("content, says", [("", "is not JSON"), ("[]", "a list"), ("[" * 20_000, "nested too deeply")])
def test_other_texts_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    ended = CliRunner().invoke(commands, ["bench", "compare", str(path), str(path)])
    assert isinstance(ended.exception, UserError) and says in str(ended.exception)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"benchmark": "prefill"}, "benchmark is prefill, but decode in "),
        ({"workload": {"prompt_tokens": 9, "new_tokens": 2}}, "prompt_tokens is 9, but 8 in "),
        ({"workload": None}, "prompt_tokens is None, but 8 in "),
        ({"workload": {"prompt_tokens": 8, "new_tokens": 2, "repetitions": 7}}, ""),
    ],
)
def test_ratios_of_different_things_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    one = result(a=[1.0]) | {"benchmark": "decode", "workload": {"prompt_tokens": 8, "new_tokens": 2}}
    for name, content in (("before", one), ("after", one | changes)):
        (tmp_path / name).write_text(json.dumps(content))
    ended = CliRunner().invoke(commands, ["bench", "compare", str(tmp_path / "before"), str(tmp_path / "after")])
    assert (ended.exit_code == 0) == (not says) and says in str(ended.exception or "")


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-0.1", "1", "1e400"])
def test_what_is_no_tolerance(tmp_path: Path, tolerance: str) -> None:
    ended = CliRunner().invoke(commands, ["bench", "compare", "a", "b", "--tolerance", tolerance])
    assert ended.exit_code == 2 and "--tolerance" in ended.output
