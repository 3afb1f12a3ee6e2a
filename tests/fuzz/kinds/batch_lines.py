"""JSON lines of a batch."""

import json
from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import known
import odd
from case import QUICK, Case, Outcome, Room
from verdict import finite_json

from kinds.config import most

_LINES: tuple[Any, ...] = (
    {"prompt": "hi"},
    {"prompt_ids": [3, 4, 5], "id": "a"},
    {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 2},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    {
        "custom_id": "b",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "x"}]},
    },
)
_FIELDS = (
    *("prompt", "prompt_ids", "messages", "id", "custom_id", "max_new_tokens", "max_tokens", "max_completion_tokens"),
    *("body", "temperature", "top_p", "top_k", "seed", "n", "stop", "tools", "logit_bias", "presence_penalty", "min_p"),
    *("chat_template_kwargs", "model", "stream", "user", "suffix", "echo", "logprobs", "name", "tool_calls", "unknown"),
)


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    lines = [json.loads(json.dumps(rng.choice(_LINES))) for _ in range(rng.randrange(1, 4))]
    told = []
    texts = [json.dumps(line) for line in lines]
    path, whole = room.work / "in.jsonl", []
    for draw in draws:
        number = draw.randrange(len(lines))
        if draw.random() < 0.15:
            whole.append(draw)
        elif draw.random() < 0.15:
            texts[number], done = edit_json.edit_text(json.dumps(lines[number]), draw)
            told.append(f"line {number + 1}: {done}")
        else:
            done = edit_json.edit(lines[number], draw, _FIELDS)
            texts[number] = edit_json.dump(lines[number])
            told.append(f"line {number + 1}: {done}")
    room.write(path, rng.choice(("\n", "\n", "\n\n")).join(texts) + rng.choice(("\n", "")))
    told += [edit_files.spoil(room, path, draw) for draw in whole]
    output = room.work / "out" / "answers.jsonl"
    if rng.random() < 0.1:
        room.write(output, rng.choice(("", "x\n", '{"id": null}\n', odd.text(rng))))
        told.append("an output is there")
    prompts = {json.dumps(line): name for line, name in zip(_LINES, ("hi", "ids", "hi", "hi", "x"), strict=True)}
    words = ["batch", "--model", str(model), "--input", "in.jsonl", "--output", "out/answers.jsonl", "--json", "-"]

    def check(outcome: Outcome) -> str | None:
        content = edit_files.content_of(path, 2**27).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        asked = {number: line for number, line in enumerate(content, 1) if line.strip()}
        try:
            finite_json(outcome.stdout)
            answers = [finite_json(line.encode()) for line in output.read_text().splitlines()]
        except ValueError as error:
            return f"{output.name}: {error}"[:200]
        if sorted(answer["line"] for answer in answers) != list(asked):
            return f"answers to lines {[answer['line'] for answer in answers]}, but asked were {list(asked)}"
        for answer in answers:
            line = asked[answer["line"]].decode("utf-8", "replace")
            if line in prompts and (wrong := of_good_line(room, prompts[line], line, answer)):
                return f"line {answer['line']}: {wrong}"
        return None

    names = ("--input", "in.jsonl", "--output", "answers.jsonl")
    return Case([*words, *QUICK, *most()], names=names, statuses=(0, 1, 2), check=check, told=told)


def of_good_line(room: Room, name: str, line: str, answer: dict[str, Any]) -> str | None:
    """What is wrong with the answer to a line that was not changed."""
    if "token_ids" not in answer:
        return f"skipped: {answer.get('error')}"
    return known.difference(room, name, answer, json.loads(line).get("max_new_tokens", bases.NEW_TOKENS))
