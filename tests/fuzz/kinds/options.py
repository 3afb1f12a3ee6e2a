"""All options of all commands, by their types: numbers of any size, texts, paths of any bytes, again and again."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import click
import known
import odd
from case import QUICK, Case, Check, Room
from verdict import is_finite_json

from kinds.config import most

_SKIPPED = ("--help", "--dry-run", "--debug-rank", "--version", "--plot", "--trace-messages")
# The first needs ranks; the second looks at the whole machine, for seconds; the third runs what it is given.
_NOT_RUN = {("bench", "comm"), ("doctor",), ("run",)}
# fmt: off
# Of rounds that somebody wants; of arithmetic that is tried, and compiled, once on a machine.
_LASTING = ("--warmup", "--repetitions", "--dtype", "--kernels", "--quantize", "--activations", "--kv-cache-dtype")
# What may make another answer of the same prompt, or print it elsewhere.
_CHANGING = (
    "--prompt", "--chat", "--no-chat", "--system", "--max-new-tokens", "--ignore-eos", "--temperature", "--model",
    "--repetition-penalty", "--presence-penalty", "--frequency-penalty", "--generation-config", "--guidance-scale",
    "--num-return-sequences", "--kv-cache-dtype", "--quantize", "--activations", "--dtype", "--json",
    "--negative-prompt", "--input", "--output", "--help", "-h",
)
_VALUES = (
    "hi", "x", "1", "0", "-1", "2", "16", "pp=1", "tp=1", "auto", "localhost:2", "a:1,b:2", "8GiB", "1,2",
    "node1=1GiB",
)
# fmt: on


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    for name, text in (("doc", "some text"), ("questions", "one?\ntwo?\n"), ("in.jsonl", '{"prompt": "hi"}\n')):
        room.write(room.work / name, text)
    path = rng.choice(sorted(leaves() if draws else set(leaves()) - {"model get"}))  # it has nothing that is there
    words, given = [*path.split(), *base_words(room, path, str(model))], []
    for draw in draws:
        given += option(command_of(path), draw)
    at = words.index("--") if "--" in words else len(words)
    words = [*words[:at], *given, *words[at:]]
    if path == "model get" and words[2] not in given:
        words[2:3] = [odd.argument(odd.text(draws[0]) if draws else "nothing")]
    told = [path, " ".join(ascii(word[:100])[1:-1] for word in given)]
    statuses = (0, 1, 2) if path in ("batch", "bench compare") else (0, 2)
    check: Check | None = is_finite_json if is_json(given) else None
    if not any(word.startswith(_CHANGING) for word in given):
        check = {"generate": known.says_it(room, "hi"), "batch": known.wrote_it(room, "hi")}.get(path, check)
    return Case(
        words, statuses=statuses, check=check, may_last=any(word.startswith(_LASTING) for word in given), told=told
    )


def is_json(given: list[str]) -> bool:
    """Whether JSON alone is asked for on standard output."""
    paths = [
        word.removeprefix("--json=") if before != "--json" else word
        for before, word in pairwise(["", *given])
        if before == "--json" or word.startswith("--json=")
    ]
    return paths[-1:] == ["-"] and not any(word.startswith("--trace") for word in given)


def leaves() -> Iterator[str]:
    """The commands that are no groups."""
    from mpi_spp.cli import commands

    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), commands)]
    while waiting:
        path, command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                if found is not None and (*path, name) not in _NOT_RUN:
                    waiting.append(((*path, name), found))
        else:
            yield " ".join(path)


def command_of(path: str) -> click.Command:
    """The command of a path of names."""
    from mpi_spp.cli import commands

    command: Any = commands
    for name in path.split():
        command = command.get_command(click.Context(command), name)
    return command


def base_words(room: Room, path: str, model: str) -> list[str]:
    """What a command needs, so that it ends soon and well."""
    run = ["--model", model, *QUICK]
    lengths = ["--prompt-tokens", "16", "--new-tokens", "4"]
    of_model = ["--model", model, *lengths]
    bench = [*run, *lengths, "--warmup", "0", "--repetitions", "1"]
    result, trace = str(room.bases / "bench.json"), str(room.bases / "trace.json")
    return {
        "generate": [*run, "--prompt", "hi", *most()],
        "ask": [*run, "--document", "doc", "--questions", "questions", *most()],
        "batch": [*run, "--input", "in.jsonl", "--output", "out/answers.jsonl", *most()],
        "bench prefill": bench,
        "bench decode": bench,
        "bench e2e": bench,
        "bench compare": [result, result],
        "plan": of_model,
        "simulate": [*of_model, "--ranks", "1,2"],
        "trace summary": [trace],
        "trace plot": [trace, "out/picture.svg"],
        "launch": ["--dry-run", "-np", "2", "--", "plan", *of_model],
        "model get": ["nothing"],
        "model convert": [str(room.bases / "gguf" / "model.gguf"), "out/converted"],
    }.get(path, [])


def option(command: click.Command, rng: Random) -> list[str]:
    """An option of a command with a value, or several, and now and then a word that is none."""
    if rng.random() < 0.04:
        return [odd.argument(rng.choice((odd.text(rng), "--" + odd.symbols(rng), "--no-such=1", "-")))]
    options = [one for one in command.params if isinstance(one, click.Option) and one.opts[-1] not in _SKIPPED]
    if not options:
        return [odd.argument(odd.text(rng))]
    chosen = rng.choice(options)
    name = rng.choice((*chosen.opts, *chosen.secondary_opts))
    if chosen.is_flag:
        return [name] if rng.random() < 0.8 else [f"{name}={odd.argument(odd.symbols(rng))}"]
    value = odd.argument(value_of(chosen, rng))
    return [f"{name}={value}"] if name.startswith("--") and rng.random() < 0.5 else [name, value]


def value_of(chosen: click.Option, rng: Random) -> str:
    """A value for an option, mostly of its type."""
    kind, drawn = chosen.type, rng.random()
    if drawn < 0.1:
        return rng.choice((odd.text(rng), odd.symbols(rng)))
    if isinstance(kind, click.Choice):
        return str(rng.choice((*kind.choices, *kind.choices, "x", str(kind.choices[0]).upper())))
    if isinstance(kind, click.Path):
        return odd.path(rng)
    if kind.name in ("integer", "float", "integer range", "float range"):
        return str(odd.number(rng))[:6000]
    return rng.choice((rng.choice(_VALUES), odd.symbols(rng), odd.text(rng), str(odd.number(rng))[:5000]))
