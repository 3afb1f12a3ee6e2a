"""Are the planned chunks as fast as the best fixed size? All sizes take turns within every launch.

    .venv/bin/python -m benchmarks.chunk_sizes [--ranks 1 --ranks 2] [--prompt-tokens 1024] [--repetitions 5]

Prints the speed of the planned chunks over that of every fixed size, round by round: above 1 the plan is faster.
"""

import statistics
from typing import Any

import click

from benchmarks import machine
from benchmarks.launches import result_of

FIXED = ("32", "64", "128", "256", "512")


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--ranks", multiple=True, default=(1, 2), show_default=True)
@click.option("--prompt-tokens", multiple=True, default=(256, 1024, 4096), show_default=True)
@click.option("--repetitions", default=5, show_default=True)
def main(model: str, ranks: tuple[int, ...], prompt_tokens: tuple[int, ...], repetitions: int) -> None:
    """Print the ratios for every count of ranks, of one thread each, and every length of the prompt."""
    machine.tell()
    for num_ranks in ranks:
        for length in prompt_tokens:
            lengths = ["--prompt-tokens", str(length), "--repetitions", str(repetitions)]
            planned, *fixed = _measure(num_ranks, ["--model", model, *lengths])
            ratios = {size: _ratio(planned, case) for size, case in zip(FIXED, fixed, strict=True)}
            shown = ", ".join(f"{ratio:.3f} of {size}" for size, ratio in ratios.items())
            click.echo(f"{num_ranks} ranks, {length} tokens: {planned['median']:.0f} {planned['unit']}, {shown}")
            click.echo(f"    least {min(ratios.values()):.3f}; planned {planned['chunks']}")


def _measure(ranks: int, options: list[str]) -> list[dict[str, Any]]:
    """The cases of one launch: the planned chunks, then the fixed ones."""
    sizes = [word for size in ("auto", *FIXED) for word in ("--chunk-size", size)]
    cases: list[dict[str, Any]] = result_of(["bench", "prefill", *options, *sizes], ranks)["cases"]
    return cases


def _ratio(planned: dict[str, Any], fixed: dict[str, Any]) -> float:
    return statistics.median(a / b for a, b in zip(planned["samples"], fixed["samples"], strict=True))


if __name__ == "__main__":
    main()
