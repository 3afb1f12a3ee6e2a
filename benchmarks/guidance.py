"""How much faster is a guided answer on two halves of the ranks than with both sequences on one? In turn, A B A B.

    .venv/bin/python -m benchmarks.guidance [--model M] [--prompt-characters 4000] [--new-tokens 64] [--ranks 2]

Prompt and negative prompt are parts of this project's license, of about the same length. Ranks have one thread each. A
request lasts from the start of the prefill to the last token; its prefill and its decode are compared as well. On one
rank the two sequences share every read of a weight, so the decode gains less from halves than the prefill.
"""

import json as jsons
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.launches import result_of

_LICENSE = Path(__file__).parents[1] / "LICENSE"
_PARTS = ("request", "prefill", "decode")


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--prompt-characters", default=4000, show_default=True)
@click.option("--negative-characters", default=4000, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--scale", default=1.5, show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--decode", default="replicated", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--ranks", default=2, show_default=True)
@click.option("--json", help="Write all rounds to this file.")
def main(
    model: str,
    prompt_characters: int,
    negative_characters: int,
    new_tokens: int,
    scale: float,
    dtype: str,
    decode: str,
    rounds: int,
    ranks: int,
    json: str | None,
) -> None:
    """Print the ratios of each round, and their medians."""
    machine.tell()
    text, results = _LICENSE.read_text(encoding="utf-8"), []
    with tempfile.TemporaryDirectory() as directory:
        prompt = Path(directory) / "prompt.txt"
        prompt.write_text(text[:prompt_characters], encoding="utf-8")
        negative = text[prompt_characters : prompt_characters + negative_characters]
        words = ["generate", "--model", model, "--prompt-file", str(prompt), "--no-chat", "--dtype", dtype]
        words += ["--guidance-scale", str(scale), "--negative-prompt", negative, "--decode", decode]
        words += ["--ignore-eos", "--max-new-tokens", str(new_tokens)]
        for number in range(rounds):
            alone, together = (_seconds(result_of(words, count)) for count in (1, ranks))
            results.append({"one_rank_s": alone, f"{ranks}_ranks_s": together, "ratios": _ratios(alone, together)})
            click.echo(f"round {number + 1}: {_show(results[-1]['ratios'])}")
    medians = {part: statistics.median(one["ratios"][part] for one in results) for part in _PARTS}
    click.echo(f"{model}, {ranks} ranks to one: {_show(medians)}")
    if json is not None:
        what = {"model": model, "words": words[3:], "ranks": ranks, "rounds": results, "medians": medians}
        Path(json).write_text(jsons.dumps(what, indent=1) + "\n", encoding="utf-8")


def _seconds(result: dict[str, Any]) -> dict[str, float]:
    """Of the whole request, of both prefills with their syncs to the first token, and of the rest."""
    prefill, decode = (result["timings"][name] for name in ("first_token_s", "decode_s"))
    return {"request": prefill + decode, "prefill": prefill, "decode": decode}


def _ratios(alone: dict[str, float], together: dict[str, float]) -> dict[str, float]:
    return {part: alone[part] / together[part] for part in _PARTS}


def _show(ratios: dict[str, float]) -> str:
    return ", ".join(f"{part} {ratios[part]:.3f} times" for part in _PARTS)


if __name__ == "__main__":
    main()
