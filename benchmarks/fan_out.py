"""How many more tokens a second do several ranks give than one, for questions about one document? In turn, A B A B.

    .venv/bin/python -m benchmarks.fan_out [--model M] [--document-characters 9000] [--new-tokens 64] [--rounds 5]

The document is this project's license. Ranks have one thread each; tokens a second are those of all answers, from the
start of the prefill to the last answer's last token.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.launches import result_of

_LICENSE = Path(__file__).parents[1] / "LICENSE"
_QUESTIONS = (
    "Who may use the work?",
    "What must a copy of the work contain?",
    "When does the patent license end?",
    "May the work be sold?",
    "What is said about trademarks?",
    "Who is liable for damages?",
    "What is a contribution?",
    "May other terms be added to changes?",
)


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--document-characters", default=9000, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--ranks", default=2, show_default=True)
def main(model: str, document_characters: int, new_tokens: int, rounds: int, ranks: int) -> None:
    """Print the ratio of each round, and their median."""
    machine.tell()
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        document, questions = Path(directory) / "document.txt", Path(directory) / "questions.txt"
        document.write_text(_LICENSE.read_text(encoding="utf-8")[:document_characters], encoding="utf-8")
        questions.write_text("\n".join(_QUESTIONS) + "\n", encoding="utf-8")
        ask = ["ask", "--model", model, "--document", str(document), "--questions", str(questions)]
        ask += ["--dtype", "bfloat16", "--ignore-eos", "--max-new-tokens", str(new_tokens)]
        for number in range(rounds):
            alone, together = (result_of(ask, count) for count in (1, ranks))
            ratios.append(together["tokens_per_s"] / alone["tokens_per_s"])
            shown = f"{_show(alone)} on 1, {_show(together)} on {ranks}"
            click.echo(f"round {number + 1}: {shown}: {ratios[-1]:.3f} times")
    shared = f"{together['shared_tokens']} shared tokens, {len(_QUESTIONS)} questions"
    click.echo(f"{model}, {shared}: {statistics.median(ratios):.3f} times")


def _show(result: dict[str, Any]) -> str:
    return f"{result['tokens_per_s']:.1f} tokens/s"


if __name__ == "__main__":
    main()
