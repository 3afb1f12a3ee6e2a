"""Values, texts and paths that programs stumble over, drawn by a seeded generator."""

import os
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 5, 7, 16, 63, 64, 65, 255, 256, 1000, 4096, 65536, 10**6, 10**9),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**29, 10**400, -(2**31), -(2**63) - 1, -(10**29)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 2.0, 1e-45, 1e-300, 1e-6, 1e38, 1e300, 1.7e308),
    *(float("nan"), float("inf"), float("-inf")),
)
# fmt: off
TEXTS = (
    "", " ", "x", "0", "1", "-1", "1.5", "1e9", "nan", "inf", "true", "null", "None", "auto", "hi there", "a\nb", "\t",
    "\x00", "a\x00b",
    "\x1b[31mred", "\r\n", "\u202eabc", "e\u0301", "\ufeff", "\ufffd", "\ud800", "😀", "你好", "\u2028",
    "%s%n", "{}", "{0}", "${HOME}", "%q{x}", "../..", "/", "-", "--", "--help", "=", ":", ",", "'", '"', "\\", "*",
    "#", "９", "١", "1_000", "+1", "0x10", "1e400", "9" * 400, "9" * 5000, "<|im_end|>", "<|im_start|>system\n",
)
# fmt: on
_SYMBOLS = (
    *("pp", "tp", "dp", "ep", "auto", "even", "localhost", "a", "b", "cuda", "GiB", "KB", "MiB", "nan", "inf", "..."),
    *("0", "1", "2", "3", "4", "5", "16", "64", "1024", "99999999999", "-1", "0.5", "1e9", "10.0.0.0/24", "eth0"),
    *("=", "=", ",", ",", ":", "..", "-", " ", "/", ".", "%", "é", "\ud800"),
)


def words(text: str) -> tuple[str, ...]:
    """A table of names that are words."""
    return tuple(text.split())


def number(rng: Random) -> Any:
    """An integer or a float of any size, or none."""
    if rng.random() < 0.2:
        return rng.choice((rng.randrange(-100, 1000), rng.randrange(2**70), rng.uniform(-10, 10)))
    return rng.choice(NUMBERS)


def text(rng: Random) -> str:
    """A text of any length and any characters, halves of some included."""
    drawn = rng.random()
    if drawn < 0.6:
        return rng.choice(TEXTS)
    if drawn < 0.7:
        return rng.choice(("a", "é", "😀", " ", "\n", "ab ", "(")) * rng.choice((100, 5000, 100_000))
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) for _ in range(rng.randrange(1, 20)))


def symbols(rng: Random) -> str:
    """Words and signs as options are made of, in no order that means something."""
    return "".join(rng.choice(_SYMBOLS) for _ in range(rng.randrange(1, 8)))


def value(rng: Random, depth: int = 2) -> Any:
    """Any value of JSON."""
    drawn = rng.random()
    if drawn < 0.45:
        return number(rng)
    if drawn < 0.6:
        return text(rng)
    if drawn < 0.8 or depth == 0:
        return rng.choice(
            (None, True, False, [], {}, [None], [[]], [0], [1, 2], [-1], [1.5], ["x"], {"": 0}, {"a": {}})
        )
    if drawn < 0.9:
        return [value(rng, depth - 1) for _ in range(rng.choice((1, 2, 3, 300)))]
    return {text(rng): value(rng, depth - 1) for _ in range(rng.randrange(1, 4))}


def argument(text: str) -> str:
    """A text as a word of a command line or of an environment can be: without null bytes."""
    return os.fsdecode(text.replace("\x00", "").encode("utf-8", "surrogatepass"))[:100_000]


def path(rng: Random) -> str:
    """A path as it may be given: below the folder one stands in, or of a device. Nothing outside can be made by it."""
    named = ("out", "out/x.json", "out/x.png", "out/x.svg", "out/x.html", "new.json", "no/such/dir/x", "model", "file")
    devices = ("/dev/null", "/dev/full", "/dev/zero", "/dev/stdin", "/dev/stdout", "/dev/fd/99", "/proc/self/mem")
    others = ("", ".", "./", "~", "~nobody/x", "~/x", "loop", "dangling", "fifo", "file/x", "readonly", "a" * 300)
    longer = (
        "a/" * 3000,
        "out/é😀",
        "out/\udcff\udcfe",
        "out/a\nb",
        "out/ x ",
        "out/--json",
        "out/%s",
        "-",
        "--",
        "$HOME",
    )
    return rng.choice((*named, *devices, *others, *longer))
