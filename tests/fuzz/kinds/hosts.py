"""Hostfiles, and the text of --hosts."""

import re
from pathlib import Path
from random import Random

import edit_files
import edit_json
import odd
from case import Case, Check, Outcome, Room
from verdict import finite_json, is_finite_json

_PLAIN = re.compile(r"(?P<name>[\w.-]+)(?:(?:\s+slots\s*=\s*|:)(?P<slots>[1-9]))?", re.ASCII)
# fmt: off
_NAMES = (
    "localhost", "node1", "node2", "10.0.0.1", "user@node1", "a.b.example.com", "node[1-3]", "[::1]", "-x", "é", "a_b",
)
# fmt: on
# fmt: off
_SLOTS = (
    "", " slots=2", ":2", " slots = 3", " slots=0", " slots=-1", " slots=99999999999", ":1000000", " max_slots=4", ":",
    " slots=2 max-slots=4", " max-memory=8GiB", " max-memory=nan", " max-memory=1e400GiB", " slots=2 slots=3",
    " cpus=2", " slots=x", ":2:3", " # comment", "  \t ", " slots=2 max-memory=0", " slots=２", ":" + "9" * 5000,
    ":1 max-memory=" + "9" * 400,
)
# fmt: on


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    lengths = ["--model", str(model), "--prompt-tokens", "16", "--new-tokens", "4", "--json", "-"]
    if rng.random() < 0.3:
        hosts = ",".join(entry(draw) for draw in draws) or "localhost:2"
        words = ["plan", *lengths, "--hosts", odd.argument(hosts)]
        names = ("--hosts", "--layer-split", "--mesh")
        return Case(words, names=names, check=is_finite_json, told=[f"--hosts {edit_json.short(hosts)}"])
    path = room.write(room.work / "hosts", "localhost slots=2\n")
    told = [change(room, path, draw) for draw in draws]
    if rng.random() < 0.5:
        words = ["plan", *lengths, "--hostfile", "hosts"]
    else:
        words = ["launch", "--dry-run", "--json", "-", "--hostfile", "hosts", *rng.choice(((), ("-np", "2")))]
        words += rng.choice((["--", "doctor"], ["--", "plan", *lengths]))
    names = ("--hostfile", "-np", "--layer-split", "--mesh")
    return Case(words, names=names, check=slots_of(path, "-np" in words), told=[words[0], *told])


def slots_of(path: Path, is_told: bool) -> Check:
    """A check that as many ranks are started or planned as the lines say, where all are plain ones."""

    def check(outcome: Outcome) -> str | None:
        told = finite_json(outcome.stdout)
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.split("#")[0].strip()]
        found = [_PLAIN.fullmatch(line.split("#")[0].strip()) for line in lines]
        if is_told or not all(found) or len({one["name"] for one in found if one}) < len(lines):
            return None
        expected = sum(int(one["slots"] or 1) for one in found if one)
        ranks = len(told["ranks"]) if "ranks" in told else int(told["argv"][told["argv"].index("-np") + 1])
        return None if ranks == expected else f"{ranks} ranks, but the file has {expected} slots"

    return check


def entry(rng: Random) -> str:
    """A host as it may be written."""
    drawn = rng.random()
    if drawn < 0.8:
        return rng.choice(_NAMES) + rng.choice(_SLOTS)
    return odd.symbols(rng) if drawn < 0.9 else odd.text(rng)


def change(room: Room, path: Path, rng: Random) -> str:
    """One change of the file."""
    drawn = rng.random()
    if drawn < 0.25:
        return edit_files.spoil(room, path, rng)
    count = rng.choice((1, 1, 1, 2, 3, 5)) if drawn < 0.95 else 100_000
    lines = [entry(rng) for _ in range(min(count, 5))] * max(1, count // 5)
    if drawn > 0.97:
        lines = [f"node{number} slots=4" for number in range(count)]
    text = rng.choice(("\n", "\n", "\r\n", "\r")).join(lines)
    room.write(path, rng.choice(("", "", "\ufeff")) + text)
    return f"{path.name}: {count} lines, {edit_json.short(text, 200)}"
