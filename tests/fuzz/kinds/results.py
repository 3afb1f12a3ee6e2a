"""Results of `bench --json`, files of --trace, and what is remembered in the cache folder."""

import shutil
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import edit_files
import edit_json
import known
from case import QUICK, TRIALS, Case, Check, Outcome, Room
from verdict import finite_json, is_finite_json

from kinds.config import most

_TOLERANCES = ("0.02", "0", "1", "-1", "nan", "inf", "-inf", "1e400", "x", "", "1e-320")


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    kind = rng.choice((*("compare", "summary", "plot") * 3, "cache"))  # which often tries the kernels anew, for 2 s
    if kind == "cache":
        return of_cache(room, rng, draws)
    base = "bench.json" if kind == "compare" else "trace.json"
    paths = [room.work / name for name in (base, f"other-{base}")]
    for path in paths:
        shutil.copy(room.bases / base, path)
    told = [kind]
    if kind == "compare":
        told.append(speed_up(room, paths[1], rng.choice((1.0, 0.01, 100.0))))
    for draw in draws:
        path = paths[draw.choice((0, 0, 1)) if kind == "compare" else 0]
        spoils = draw.random() < 0.15
        told.append(edit_files.spoil(room, path, draw) if spoils else edit_json.edit_file(room, path, draw))
    words = {
        "compare": ["bench", "compare", *[path.name for path in paths], "--json", "out/ratios.json"],
        "summary": ["trace", "summary", base, "--json", "-"],
        "plot": ["trace", "plot", base, f"out/picture.{rng.choice(('svg', 'html', 'svg'))}"],
    }[kind]
    if kind == "compare" and draws and rng.random() < 0.3:
        words += ["--tolerance", rng.choice(_TOLERANCES)]
        told.append(" ".join(words[-2:]))
    statuses = (0, 1, 2) if kind == "compare" else (0, 2)
    check = {"summary": is_finite_json, "plot": picture_at(room.work / words[-1]), "compare": ratios_of(room, paths)}[
        kind
    ]
    return Case(words, names=(base, "--tolerance", "trace"), statuses=statuses, check=check, told=told)


def speed_up(room: Room, path: Path, times: float) -> str:
    """Let a result be another one, by more than its noise or not at all."""
    document = edit_json.load(path)
    for case in document["cases"]:
        case["median"] *= times
        case["samples"] = [sample * times for sample in case["samples"]]
    room.write(path, edit_json.dump(document))
    return f"{path.name} {times} times as fast"


def picture_at(path: Path) -> Check:
    """A check that there is one: a page, or XML that can be read."""

    def check(outcome: Outcome) -> str | None:
        if path.suffix == ".html":
            return None if "</html>" in path.read_text() else f"{path.name} is no page"
        try:
            ElementTree.parse(path)
        except ElementTree.ParseError as error:
            return f"{path.name}: {error}"
        return None

    return check


def ratios_of(room: Room, paths: list[Path]) -> Check:
    """A check of a comparison: the ratios of medians, and status 1 where one is slower."""

    def check(outcome: Outcome) -> str | None:
        told = finite_json((room.work / "out" / "ratios.json").read_bytes())
        before, after = (
            {case["name"]: case["median"] for case in edit_json.load(path, 2**27)["cases"]} for path in paths
        )
        for case in told["cases"]:
            expected = after[case["name"]] / before[case["name"]]
            is_slower, is_faster = case["high"] < 1 - told["tolerance"], case["low"] > 1 + told["tolerance"]
            verdict = "slower" if is_slower else "faster" if is_faster else "same"
            if (
                abs(case["ratio"] / expected - 1) > 1e-6
                or not case["low"] <= case["high"]
                or case["verdict"] != verdict
            ):
                return f"{case}, but the medians' ratio is {expected}"
        is_slower = any(case["verdict"] == "slower" for case in told["cases"])
        return None if outcome.status == int(is_slower) else f"status {outcome.status}, but {told['cases']}"

    return check


def of_cache(room: Room, rng: Random, draws: list[Random]) -> Case:
    """What earlier runs have left must never stop a later one."""
    folder = room.path / "cache" / "kernels"
    told = []
    for draw in draws:
        path = draw.choice(sorted(folder.iterdir()))
        if draw.random() < 0.3 and path.is_file():
            told.append(
                edit_files.overwrite(room, path, draw) if draw.random() < 0.5 else edit_files.cut(room, path, draw)
            )
        else:
            told.append(edit_json.edit_file(room, path, draw) if path.is_file() else "nothing to change")
        told[-1] = f"{path.name}: {told[-1]}"
    model = room.copy("llama")
    lengths = ["--model", str(model), "--prompt-tokens", "16", "--new-tokens", "4", "--json", "-"]
    words = rng.choice((["plan", *lengths], ["simulate", *lengths, "--ranks", "1,2"], ["generate"]))
    if words == ["generate"]:
        words = ["generate", "--model", str(model), "--prompt", "hi", "--json", "-", *QUICK, *most()]
        words[words.index("plain")] = "auto"
    check = known.says_it(room, "hi") if words[0] == "generate" else is_finite_json
    return Case(words, statuses=(0,), check=check, patience=TRIALS, told=["cache", words[0], *told])
